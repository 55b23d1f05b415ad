"""The search, from looking at a folder to the network that is kept: `best`.

The order is: look at the images; a probe on each network's features, whose best is kept at once; a plan of trials from
measured times; the trials, by halving over folds; the winner, trained on all images, in the place of the probe. All of
it is a function of the images, the settings and the plan, which is written before it is carried out: a search that was
killed goes on, and ends with the same network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import Config, recipes
from mixjax.data.dataset import Dataset
from mixjax.data.datasets.folder import counted
from mixjax.data.labelled import run_data, split_file, splits
from mixjax.data.labelled.run_data import Sets
from mixjax.errors import UserError
from mixjax.host import disk_full, storage
from mixjax.host.progress import duration
from mixjax.host.storage import Place
from mixjax.maths import probe as probes
from mixjax.maths import selection
from mixjax.models import weights
from mixjax.rundir import files, lock
from mixjax.search import alike, backbones, entries, folds, outcome, trials
from mixjax.search import plan as planning
from mixjax.search.backbones import Backbone
from mixjax.search.entries import Entry
from mixjax.search.folds import Folds
from mixjax.search.plan import Plan, Trial
from mixjax.search.trials import Common, Say
from mixjax.train import predictions, program, seeds, shared

PLAN, BEST, SPLITS = 'plan.json', 'best.json', 'splits.json'
WITH_CLASSIFIER = 'smile'  # is tried, too, where the weights have one
FACTORS = (1.0, 3.0, 1 / 3)  # of the learning rate
FEATURES = 0.4  # share of the time that features may take
# Labelled images up to which there are so many folds, drawn so often. With a handful of images a fifth of them is much:
# what learns from the others would be compared on another task.
FOLDS = ((50, 8, 3), (200, 5, 3), (1000, 5, 2), (10**9, 5, 1))
BATCH, FEW = 32, 160  # size of a batch; half of it for fewer images
EVALUATED = 32  # size of a batch that is timed
MOST = 5_000_000  # probabilities of an entry
PROBES = 0.15  # share of the time that the probes of a network may take
# Seconds of the logistic regression's path on two cores, by images, features, classes, folds and strengths: 8 s of
# 2,000 x 1,280, 100 classes, 5 folds and 20 strengths (docs/speed.md). An accelerator is at least so many times faster.
SECONDS, FASTER = 8 / (2000 * 1280 * 100 * 5 * 20), 20


class Looked(NamedTuple):
    """The images of a folder, and facts about them.

    Attributes:
      sets: the images.
      groups: (n,) int, equal for images that are alike.
      same: number of images that are byte for byte another one.
      contradictions: pairs of rows that are alike and have two classes.
      lines: what is said of all that.
    """

    sets: Sets
    groups: np.ndarray
    same: int
    contradictions: list[tuple[int, int]]
    lines: list[str]

    @property
    def train(self) -> Dataset:
        return self.sets.train


class Asked(NamedTuple):
    """The task of a search: settings, networks, images and folds.

    Attributes:
      overrides: settings, as (key, text).
      config: these settings, of which those of the search are used.
      backbones: the networks.
      looked: the images.
      folds: the folds.
    """

    overrides: Sequence[tuple[str, str]]
    config: Config
    backbones: Sequence[Backbone]
    looked: Looked
    folds: Folds


class Row0(NamedTuple):
    """The probes. entries: all of them. best: the place of the best. features: those of each network, or None."""

    entries: list[Entry]
    best: int
    features: list[np.ndarray | None]


class Search(NamedTuple):
    """A search that has begun.

    Attributes:
      folder: its work directory.
      config: its settings.
      common: what its runs share.
      looked: the images.
      folds: the folds.
      say: prints a line.
      quiet: whether the runs show nothing.
      began: when it began, by `time.monotonic`.
      command: the command line.
      known: what `plan.json` holds.
    """

    folder: Place
    config: Config
    common: Common
    looked: Looked
    folds: Folds
    say: Say
    quiet: bool
    began: float
    command: str
    known: dict[str, Any]

    @property
    def labels(self) -> np.ndarray:
        return self.looked.train.labels

    @property
    def classes(self) -> int:
        return len(self.looked.train.classes)

    def clock(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self.began

    def left(self) -> float:
        """Return the seconds that are left of its time."""
        return 60 * self.config.search.minutes - self.clock()

    def remember(self, **facts: Any) -> None:
        """Write facts into `plan.json`: they stand, also after a kill."""
        self.known.update(facts)
        files.write_json(self.folder / PLAN, self.known)


def best(
    overrides: Sequence[tuple[str, str]], folder: Place, *, say: Say, quiet: bool = False, dry_run: bool = False,
    command: str = '',
) -> dict[str, Any]:  # fmt: skip
    """Search for the best classifier of the folder `config.target.dir`.

    Args:
      overrides: settings, as (key, text): those of `config.search`, and of all runs.
      folder: the work directory.
      say: prints a line.
      quiet: whether the runs show no progress.
      dry_run: stop before anything is trained or written.
      command: the command line.

    Returns:
      The contents of `best.json`; {} of a dry run.
    """
    config = config_lib.load('folder', [*trials.ALL_LABELLED, *overrides])
    if config.target.task:
        raise UserError(
            f'config.target.task={config.target.task}: a search is for one class an image; for several labels or '
            'numbers, train with --config=folder'
        )
    found, notes = backbones.chosen(config.search.networks)
    began = time.monotonic()  # downloads do not count
    looked = inspect_images(overrides, found[0], say)
    check(config, overrides, found[0], looked)
    asked = Asked(overrides, config, found, looked, draw_folds(config, looked))
    for line in (*notes, *describe(asked)):
        say(line)
    if dry_run:
        for line in time_parts(asked):
            say(line)
        return {}
    known = remembered(folder, asked)
    if (folder / BEST).exists():
        say(f'{folder} holds a finished search; nothing was trained')
        return files.read_json(folder / BEST)
    with disk_full.explain_write_errors(folder), lock.hold(folder, say):
        search = begin(asked, folder, known, say=say, quiet=quiet, began=began, command=command)
        row0 = first_row(search)
        plan = make_plan(search, row0)
        every = [*row0.entries, *run_trials(search, plan)]
        return finish(search, row0, plan, every)


# --- before anything is trained ---------------------------------------------------------------------------------------


def inspect_images(overrides: Sequence[tuple[str, str]], backbone: Backbone, say: Say) -> Looked:
    """Read all images once, and find those that are alike."""
    config = trials.base(overrides, backbone, 'probe')
    shared.preflight(config)
    sets = run_data.load_sets(config, say)
    train = sets.train
    say(f'looking at {len(train.labels):,} images')
    prints = alike.prints(train.read, len(train.labels))
    groups = alike.groups(prints)
    names = [train.ids[row] if len(train.ids) else f'image {row}' for row in range(len(groups))]
    same = len(groups) - len(np.unique(prints.digest))
    twins = len(groups) - len(np.unique(groups))
    contradictions = [(int(g), row) for row, g in enumerate(groups) if train.labels[row] != train.labels[g]]
    lines = list(sets.notes)
    if twins:
        lines.append(f'copies of other images: {twins:,}, {same:,} of them exact; they are on one side of every fold')
    for one, other in contradictions[:5]:
        lines.append(
            f'alike, and of two classes: {names[one]} ({train.classes[train.labels[one]]}) and {names[other]} '
            f'({train.classes[train.labels[other]]})'
        )
    if len(contradictions) > 5:
        lines.append(f'and {len(contradictions) - 5:,} more such pairs')
    return Looked(sets, groups, same, contradictions, lines)


def check(config: Config, overrides: Sequence[tuple[str, str]], backbone: Backbone, looked: Looked) -> None:
    """Refuse what would only fail after minutes: unknown methods, and more classes than can be compared."""
    for name in config.search.methods:
        trials.base(overrides, backbone, name)
    many, classes = len(looked.train.labels), len(looked.train.classes)
    if many * classes > MOST:
        raise UserError(
            f'a search keeps a probability for each image and each class, and {many:,} images of {classes:,} classes '
            f'are too many ({MOST:,} at most); train one network with --config=folder'
        )


def draw_folds(config: Config, looked: Looked) -> Folds:
    """Draw the folds that the settings ask for, as far as there are images for them."""
    labels = looked.train.labels
    single = len({(int(label), int(group)) for label, group in zip(labels, looked.groups, strict=True)})
    mixed = {int(looked.groups[one]) for one, _ in looked.contradictions}
    sizes = [len(set(looked.groups[labels == label].tolist()) - mixed) for label in np.unique(labels)]
    if max(sizes) < 2:
        raise UserError(
            f'{config.target.dir} has {len(sizes)} classes and {single} different images, so no class has two: nothing '
            'can be left out to measure anything on; add images, two of each class at least'
        )
    count, repeats = next((count, repeats) for most, count, repeats in FOLDS if len(labels) <= most)
    count = min(config.search.folds or count, sum(size for size in sizes if size > 1))
    return folds.draw(labels, looked.groups, count=count, repeats=config.search.repeats or repeats)


def describe(asked: Asked) -> list[str]:
    """Return what the search will do, and why."""
    config, looked, drawn = asked.config, asked.looked, asked.folds
    sizes = np.bincount(looked.train.labels, minlength=len(looked.train.classes))
    unmeasured = int((~drawn.measured).sum())
    lines = [*looked.lines]
    lines.append(
        f'{drawn.count} folds' + (f', drawn {drawn.repeats} times' if drawn.repeats > 1 else '')
        + f': each learns from {drawn.learned.shape[1]:,} images and is measured on the others'
    )  # fmt: skip
    if unmeasured:
        lines.append(
            f'learned from and never measured: {counted(unmeasured, "image")}, the only ones of their class, or alike '
            'and of two classes'
        )
    if sizes.min() < 5:
        lines.append(f'the smallest class has {sizes.min()} images: differences of a few points will be within chance')
    if looked.sets.val is not None:
        lines.append(f'the validation part, {len(looked.sets.val.labels):,} images, is not used: folds validate')
    if looked.sets.test is not None:
        lines.append(f'the test part, {len(looked.sets.test.labels):,} images, is not looked at before the end')
    names = ', '.join(f'{one.name} ({one.weights})' for one in asked.backbones)
    lines.append(f'networks: {names}')
    lines.append(
        f'in {config.search.minutes:g} minutes: features and probes at most {FEATURES:.0%} of the time, then as many '
        'trials of fine-tuning as fit, planned from measured times, and the winner on all images'
    )
    return lines


def time_parts(asked: Asked) -> list[str]:
    """Return how long the parts of a search take, as far as a batch of each network tells."""
    many, drawn, lines, spent = len(asked.looked.train.labels), asked.folds, [], 0.0
    for backbone in asked.backbones:
        setup = shared.shared_setup(trials.base(asked.overrides, backbone, 'probe'))
        each = seconds_an_image(setup, EVALUATED)
        spent += each * many
        steps = planning.steps_of(planning.EPOCHS[-1], drawn.learned.shape[1], batch_of(many))
        trial = drawn.count * steps * 3 * each * batch_of(many)
        lines.append(
            f'{backbone.name}: features of all images in {duration(each * many)}; a trial of fine-tuning all of it on '
            f'{drawn.count} folds takes {duration(trial)} at least'
        )
    left = max(0.0, 60 * asked.config.search.minutes - spent)
    lines.append(f'that leaves {duration(left)} for probes, trials, and the winner on all images; nothing was trained')
    return lines


def batch_of(images: int) -> int:
    """Return the size of a batch for so many labelled images."""
    return BATCH if images >= FEW else BATCH // 2


def remembered(folder: Place, asked: Asked) -> dict[str, Any]:
    """Return what `plan.json` holds of a search that goes on, or will hold of a new one; refuse that of another one."""
    facts = {
        'format': 1,
        'settings': sorted([key, text] for key, text in asked.overrides if key not in files.ELSEWHERE),
        'networks': [one._asdict() for one in asked.backbones],
        'data': json.loads(json.dumps(run_data.fingerprint(asked.looked.sets))),
    }
    known = files.read_json(folder / PLAN) if (folder / PLAN).exists() else {}
    for key in known and facts:
        if known.get(key) != facts[key]:
            what = {'data': 'other images', 'settings': 'other settings', 'networks': 'other networks'}.get(key, key)
            raise UserError(f'{folder} holds a search with {what}; use another --workdir')
    return {**facts, **known}


def begin(
    asked: Asked, folder: Place, known: dict[str, Any], *, say: Say, quiet: bool, began: float, command: str
) -> Search:
    """Write the folds and the settings. known: what `plan.json` holds, see `remembered`."""
    looked, drawn = asked.looked, asked.folds
    last, many = drawn.count * drawn.repeats, len(looked.train.labels)
    tested = looked.sets.test is not None
    common = Common(asked.overrides, asked.backbones, str(folder / SPLITS), last, batch_of(many), tested)
    rows = {seed: splits.Drawn(mine, *[np.zeros(0, np.int64)] * 2) for seed, mine in enumerate(drawn.learned)}
    rows[last] = splits.Drawn(np.arange(many), *[np.zeros(0, np.int64)] * 2)
    held = split_file.contents(
        asked.config.target.name, looked.sets.whole, looked.train, looked.sets.rows, dict(looked.sets.stamps), rows
    )
    files.create(folder)
    files.write_json(folder / SPLITS, held)
    files.describe(folder, command)
    search = Search(folder, asked.config, common, looked, drawn, say, quiet, began, command, known)
    search.remember()
    return search


# --- row 0: probes ----------------------------------------------------------------------------------------------------


def first_row(search: Search) -> Row0:
    """Compute the features of all networks, compare probes on them, and keep the best at once."""
    found: list[Entry] = []
    features: list[np.ndarray | None] = [None] * len(search.common.backbones)
    left_out, seconds = (dict(search.known.get(name, {})) for name in ('left out', 'seconds an image'))
    for network in range(len(search.common.backbones)):
        name = search.common.name(network)
        if name in left_out:
            continue
        began = search.clock()
        config = trials.settings(search.common, network, {'name': 'probe'}, seeds=[search.common.last], steps=1)
        built = program.build(config, shared.shared_setup(config))
        if 'timed' not in search.known:  # a search that goes on computes what it computed before
            seconds[name] = seconds_an_image(built.shared, config.eval_batch_size)
            needed = seconds[name] * len(search.labels)
            room = FEATURES * 60 * search.config.search.minutes - search.clock()
            if needed > room:
                left_out[name] = f'its features take {duration(needed)}, and there is room for {duration(room)}'
                search.say(f'{name} is left out: {left_out[name]}')
                continue
        data, _ = seeds.method_data(built, search.common.last)
        features[network] = own = data.target.features()
        search.say(f'{name}: features of all images after {duration(search.clock() - began)}')
        strengths = strengths_of(search, own)
        if len(strengths) < len(probes.Logistic().candidates):
            search.say(f'{name}: {len(strengths) or "no"} strengths of the logistic regression, to save time')
        mine = entries.probe_entries(
            name, network, own, search.labels, search.classes, search.folds, search.clock, strengths
        )
        place = selection.choose(entries.compare(mine, search.looked.groups))
        search.say(f'{mine[place].label}: {_percent(mine[place])} in cross-validation')
        found += mine
    if not found:
        raise UserError(
            'no network is fast enough here: give more --minutes, a smaller network (--networks=efficientnet_lite0), '
            f'or smaller images (--config.image.crop); {"; ".join(f"{name}: {why}" for name, why in left_out.items())}'
        )
    search.remember(timed=True, **{'left out': left_out, 'seconds an image': seconds})
    place = selection.choose(entries.compare(found, search.looked.groups))
    if not (search.folder / 'model.json').exists():
        train_on_all(search, found[place], 1, 'probe')
        publish(search, found[place], 'probe')
        search.say(
            f'{search.folder} can predict now, after {duration(search.clock())}: {found[place].label}; what follows '
            'may only replace it by a better one'
        )
    return Row0(found, place, features)


def seconds_an_image(setup: shared.Shared, batch: int) -> float:
    """Return how long the features of an image take, by one batch."""
    image, features = jax.numpy.zeros((batch, *setup.image.shape[1:])), setup.view[1]
    jax.block_until_ready(features(image))
    began = time.monotonic()
    jax.block_until_ready(features(image))
    return (time.monotonic() - began) / batch


def strengths_of(search: Search, features: np.ndarray) -> tuple[float, ...]:
    """Return the strengths of the logistic regression that there is time for: all, a few, or none.

    It goes by the size of the problem, and not by the clock: a search that goes on must do the same.
    """
    every = probes.Logistic().candidates
    size = features.size * search.classes * search.folds.count * search.folds.repeats
    fast = 1 if jax.default_backend() == 'cpu' else FASTER
    room = PROBES * 60 * search.config.search.minutes * fast / SECONDS
    return every if len(every) * size <= room else every[4:17:3] if 5 * size <= room else ()


def _percent(entry: Entry) -> str:
    return f'{100 * float(np.nanmean(entry.correct)):.1f} %'


# --- the plan ---------------------------------------------------------------------------------------------------------


def make_plan(search: Search, row0: Row0) -> Plan:
    """Return the plan in `plan.json`, or make it from measured times and write it there."""
    if 'plan' in search.known:
        return planning.from_data(search.known['plan'])
    timed: list[Trial] = []
    tested = tested_by(search)
    can = tested * search.classes <= predictions.MOST_LOGITS
    if not can:
        search.say(f'no trials: a run does not keep predictions of {tested:,} images and {search.classes:,} classes')
    accuracy = {one.network: 0.0 for one in row0.entries}
    for one in row0.entries:
        accuracy[one.network] = max(accuracy[one.network], float(np.nanmean(one.correct)))
    for network in sorted(accuracy, key=lambda n: -accuracy[n]) if can else ():
        for method in methods_of(search, network):
            first = len(timed)
            for trial in variants(search, network, method):
                found = time_trial(search, trial)
                if found is None:  # what follows is slower
                    break
                timed.append(found)
            if len(timed) == first:  # and so are the other methods
                break
    every = [
        one._replace(label=one.label + ('' if factor == 1 else f'-lr{factor:.2g}'), factor=factor)
        for factor in FACTORS
        for one in timed
    ]
    plan = planned(search, every)
    search.remember(plan=planning.to_data(plan))
    for line in explain(plan, every, search):
        search.say(line)
    return plan


def planned(search: Search, every: Sequence[Trial]) -> Plan:
    """Return the plan of some trials for the time that is left."""
    return planning.make(
        every, seconds=search.left(), images=len(search.labels), learned=search.folds.learned.shape[1],
        batch=search.common.batch, folds=search.folds.count, repeats=search.folds.repeats,
    )  # fmt: skip


def variants(search: Search, network: int, method: str) -> list[Trial]:
    """Return what is tried of a network and a method, the quickest first: its last third alone where all is slow."""
    whole = Trial(f'{search.common.name(network)}-{method}', network, method, (), 1.0, 0.0, 0.0, 0.0)
    many = planned(search, [guessed(search, whole)] * planning.ENOUGH)
    if jax.default_backend() != 'cpu' or len(many.trials) == planning.ENOUGH and many.steps >= planning.GOOD_STEPS:
        return [whole]
    below = trials.lower_parts(search.common, network)
    return [whole._replace(label=f'{whole.label}-top', freeze=below), whole]


def time_trial(search: Search, trial: Trial) -> Trial | None:
    """Return a trial with its times; None if it does not fit in the time, as far as can be said before, or then."""
    if not planned(search, [guessed(search, trial)]).rungs:
        search.say(f'{trial.label}: not tried, {duration(search.left())} are too little for it')
        return None
    search.say(f'{trial.label}: timing a few steps')
    found = trials.measure(
        search.common, trial, search.folder / 'timing' / trial.label, tested=tested_by(search),
        forward=forward_of(search, trial), quiet=search.quiet,
    )  # fmt: skip
    search.say(f'{trial.label}: {found.step:.2g} s a step, {duration(found.start)} to compile')
    if not planned(search, [found]).rungs:
        search.say(f'{trial.label}: not tried, {duration(search.left())} are too little for it')
        return None
    return found


def guessed(search: Search, trial: Trial) -> Trial:
    """Return a trial with the times that it has at least, by those of its network's features."""
    passes = 1 if trial.freeze else 3  # of a step: a backward pass costs two
    forward = forward_of(search, trial)
    return trial._replace(step=passes * search.common.batch * forward, fold=tested_by(search) * forward)


def forward_of(search: Search, trial: Trial) -> float:
    """Return the seconds of a forward pass of one image, as they were measured for the features."""
    return search.known['seconds an image'][search.common.name(trial.network)]


def tested_by(search: Search) -> int:
    """Return the number of images that a fold is measured on."""
    return len(search.labels) - search.folds.learned.shape[1]


def methods_of(search: Search, network: int) -> list[str]:
    """Return the methods of fine-tuning that are tried with a network.

    The method of its family's recipe comes first. That is LP-FT for transformers and ConvNeXt alone: with BN, the
    features that a probe is fitted to are not those of train mode, and the first steps undo it.
    """
    named = search.config.search.methods
    if named:
        return [name for name in named if name != 'probe']
    backbone = search.common.backbones[network]
    first = recipes.METHODS.get(models.family(backbone.name), 'finetune')
    more = [WITH_CLASSIFIER] if weights.classes(backbone.weights, backbone.name) else []
    return list(dict.fromkeys((first, 'finetune', *more)))


def explain(plan: Plan, every: Sequence[Trial], search: Search) -> list[str]:
    """Return what the plan is, and why."""
    left = duration(search.left())
    if not plan.rungs:
        if not every:
            return ['no fine-tuning is tried; the answer is the best probe']
        return [f'in the {left} that are left no trial of fine-tuning fits; the answer is the best probe']
    stages = '; then '.join(f'{rung.trials} on {len(rung.folds)} folds' for rung in plan.rungs)
    lines = [f'plan for the {left} that are left: trials of {plan.steps} steps ({plan.epochs} passes): {stages}']
    if len(plan.trials) < len(every):
        lines.append(
            f'{len(every) - len(plan.trials)} of {len(every)} trials do not fit: more --minutes would try them'
        )
    lines.append(f'this takes {duration(plan.seconds)} at most, by the times measured')
    return lines


# --- trials -----------------------------------------------------------------------------------------------------------


def run_trials(search: Search, plan: Plan) -> list[Entry]:
    """Carry out the plan; returns the trials that have seen whole repeats, and the others with what they have."""
    left = list(range(len(plan.trials)))
    done: dict[int, list[tuple[Place, tuple[int, ...]]]] = {place: [] for place in left}
    seconds = dict.fromkeys(left, 0.0)
    found: dict[int, Entry] = {}
    for rung in plan.rungs:
        if len(left) > rung.trials:
            scores = [float(np.nanmean(found[place].correct)) for place in left]
            losses = [float(np.nanmean(found[place].loss)) for place in left]
            order = sorted(range(len(left)), key=lambda k: (-scores[k], losses[k], k))
            left = sorted(left[k] for k in order[: rung.trials])
            search.say(f'going on: {", ".join(plan.trials[place].label for place in left)}')
        for place in left:
            trial = plan.trials[place]
            name = f'folds {rung.folds[0]}-{rung.folds[-1]}'
            folder = search.folder / 'trials' / trial.label / name.replace(' ', '-')
            began = search.clock()
            config = trials.of_trial(search.common, trial, rung.folds, plan.steps)
            trials.train(config, folder, f'{trial.label}, {name}', quiet=search.quiet, command=search.command)
            seconds[place] += search.clock() - began
            done[place].append((folder, rung.folds))
            found[place] = trial_entry(search, trial, done[place], seconds[place])
            search.say(f'{trial.label}: {_percent(found[place])} on {sum(len(f) for _, f in done[place])} folds, '
                       f'{duration(search.left())} left')  # fmt: skip
    return list(found.values())


def trial_entry(search: Search, trial: Trial, done: Sequence[tuple[Place, tuple[int, ...]]], seconds: float) -> Entry:
    """Return a trial as an entry, with what its runs say of the images they left out."""
    logits = entries.read_trial(done, search.folds, search.labels, search.classes)
    method = {'name': trial.method}
    return entries.make(
        trial.label,
        trial.network,
        method,
        logits,
        search.labels,
        search.folds,
        factor=trial.factor,
        freeze=trial.freeze,
        seconds=seconds,
    )


# --- the end ----------------------------------------------------------------------------------------------------------


def train_on_all(search: Search, entry: Entry, steps: int, place: str) -> None:
    """Train an entry on all labelled images, in a folder of the search."""
    config = trials.settings(
        search.common,
        entry.network,
        entry.method,
        seeds=[search.common.last],
        steps=steps,
        factor=entry.factor,
        freeze=entry.freeze,
    )
    trials.train(config, search.folder / place, entry.label, quiet=search.quiet, command=search.command)


def publish(search: Search, entry: Entry, place: str) -> dict[str, float]:
    """Make the network of one of the search's folders that of the search, with its temperature and threshold."""
    calibrated = outcome.calibrate(entry, search.labels, search.config.search.unknown)
    about = files.read_json(search.folder / place / 'model.json')
    whole = (search.folder / place / 'model.safetensors').read_bytes()
    about['run'] = place
    about['temperature'] = calibrated['temperature']
    if 'threshold' in calibrated:
        about['unknown'] = {'threshold': calibrated['threshold'], 'share': search.config.search.unknown}
    # Neither fits the other file: a reader in between must not mix them.
    (search.folder / 'model.json').unlink(missing_ok=True)
    files.write(search.folder / 'model.safetensors', whole)
    files.write_json(search.folder / 'model.json', about)
    return calibrated


def finish(search: Search, row0: Row0, plan: Plan, every: list[Entry]) -> dict[str, Any]:
    """Choose the winner, train it on all images if it is not there yet, and write what was found."""
    whole = [one for one in every if one.repeats]
    scores = entries.compare(whole, search.looked.groups)
    winner = whole[selection.choose(scores)]
    if winner is not row0.entries[row0.best]:
        search.say(f'{winner.label}: training on all {len(search.labels):,} images')
        train_on_all(search, winner, plan.last_steps if winner.tuned else 1, 'winner')
        publish(search, winner, 'winner')
    place = 'probe' if winner is row0.entries[row0.best] else 'winner'
    found, arrays = outcome.summary(
        outcome.Facts(
            search.looked.train, search.looked.groups, search.folds, search.common.backbones, every, whole, scores,
            winner, row0.entries[row0.best], row0.features[winner.network], search.config.search.unknown,
        )
    )  # fmt: skip
    if search.common.tested:
        results = files.read_json(search.folder / place / 'results.json')
        share, count = results['accuracy']['mean'], results['test_examples']
        found['test'] = {'accuracy': share, 'interval': selection.wilson(share, count), 'images': count}
    found |= {
        'notes': search.looked.lines,
        'contradictions': [
            [outcome.name_of(search.looked.train, row) for row in pair] for pair in search.looked.contradictions
        ],
        'copies': {'exact': search.looked.same, 'alike': len(search.labels) - len(np.unique(search.looked.groups))},
        'left out': search.known.get('left out', {}),
        'plan': search.known.get('plan'),
        'folder': search.config.target.dir,
        'minutes': search.config.search.minutes,
        'seconds': search.clock(),
        'command': search.command,
    }
    files.write_arrays(search.folder / 'best.npz', arrays)
    files.write_json(search.folder / BEST, found)
    return found


def workdir_of(folder: str) -> Place:
    """Return where the search of a folder goes by default: `runs/NAME-best`."""
    name = storage.to_place(folder).resolve().name if folder else ''
    return storage.to_place(f'runs/{name or "folder"}-best')
