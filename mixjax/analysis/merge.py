"""`merge`: one network from those of finished runs, by averages of their weights.

The mathematics is `mixjax.maths.weight_average`, the choice by accuracy and the evaluation are in
`mixjax.analysis.judge`. A merge reads what runs have exported, or their checkpoints for several seeds of one, and
writes a folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import config as config_lib
from mixjax import inference
from mixjax.analysis import judge, opened
from mixjax.analysis.folders import results_of
from mixjax.analysis.judge import Judge, Measured
from mixjax.config import method_registry
from mixjax.errors import UserError, require
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.inference import Predictor
from mixjax.maths import weight_average
from mixjax.models import registry, weights
from mixjax.rundir import files
from mixjax.train import evaluation, export
from mixjax.version import __version__

Tree = Any
Rule: TypeAlias = Literal['greedy', 'uniform', 'start']
Statistics: TypeAlias = Literal['average', 'recompute']
Folders: TypeAlias = 'str | Path | Sequence[str | Path]'
FILE = 'merge.json'
# Of `model.json`, as the members'.
OF_NETWORK = ('format', 'model', 'dtype', 'classes', 'data', 'image', 'channels', 'licence')
LIKE = ('crop', 'resize', 'interpolation', 'mean', 'std', 'fit')  # settings of images that a network depends on


class Member(NamedTuple):
    """A network of a finished run.

    name: as it is shown. folder: of its run. seed: None for the one that was exported. step: of the network.
    variables: numpy arrays, with the heads that prediction needs. about: its `model.json`. image: its image settings.
    """

    name: str
    folder: Place
    seed: int | None
    step: int | None
    variables: Tree
    about: Mapping[str, Any]
    image: Mapping[str, Any]


class Tried(NamedTuple):
    """A network that was evaluated.

    name: of a member, or the merge. share: that of the run, between the start and it.
    val, test: the measures on the validation and the test part, as in `results.json`; None where there is no part.
    """

    name: str
    share: float | None
    val: Measured | None
    test: Measured | None


class Merged(NamedTuple):
    """The result of a merge.

    workdir: the folder with the network. rule: 'greedy', 'uniform' or 'start'. statistics: 'average' or 'recompute'.
    parts: {name: share} of what the network is made of. tried: all networks that were evaluated.
    kept: the measures of the network. val_examples, test_examples: how many images they are of.
    note: why there are no measures; ''.
    """

    workdir: Path
    rule: Rule
    statistics: Statistics
    parts: dict[str, float]
    tried: tuple[Tried, ...]
    kept: Tried
    val_examples: int
    test_examples: int
    note: str

    def model(self, *, batch: int = 64) -> Predictor:
        """Load the network, ready to predict."""
        return inference.load(self.workdir, batch=batch)


def merge(
    runs: Folders, workdir: str | Path = '', *, start: bool = False, share: float | Sequence[float] = 0.5,
    uniform: bool = False, seeds: bool = False, statistics: Statistics = 'recompute', command: str = '',
) -> Merged:  # fmt: skip
    """Make one network of those of finished runs, and write it to a folder of its own.

    Without `start` and `uniform` it is a greedy soup: the networks are sorted by their accuracy on the validation part,
    and each is added to the mean if the accuracy does not fall.

    Args:
      runs: work directories of finished runs; of a comparison or a sweep all of its runs.
      workdir: where the network goes; '' is NAME-merged beside the first run.
      start: merge one run with the pretrained network it began from (WiSE-FT).
      share: with `start`, the share of the run, from 0 to 1; of several the one with the best validation accuracy (the
        largest of equals), or 0.5 without a validation part.
      uniform: the plain mean of all networks.
      seeds: all seeds of the runs, and not only the first of each.
      statistics: those of BatchNorm: 'recompute' takes them from the training images under the merged weights,
        'average' averages them like the weights.
      command: the command line, for the record.

    Returns:
      What was merged, and its accuracies.
    """
    shares = (share,) if isinstance(share, int | float) else tuple(share)
    require(len(shares) > 0 and all(0 <= one <= 1 for one in shares), f'share must be from 0 to 1, not {share}')
    require(not (start and uniform), 'start= is of one run, and uniform= of several; give one of them')
    require(statistics in ('average', 'recompute'), f"statistics must be 'average' or 'recompute', not {statistics!r}")
    folders = [storage.resolve_links(storage.reachable(one)) for one in _listed(runs)]
    place = storage.resolve_links(storage.reachable(workdir)) if str(workdir) else _beside(folders[0])
    _refuse_taken(place)
    found = [member for folder in folders for member in members(folder, seeds)]
    if start and len(found) != 1:
        raise UserError(f'a merge with the start is of one network, and these are {len(found)}; give one run')
    if not start and len(found) < 2:
        raise UserError(
            f'{found[0].name} is one network; name another run to merge with, or its seeds (--seeds), or the '
            'pretrained network (--with=start)'
        )
    for other in found[1:]:
        check_alike(found[0], other)
    with judge.of([(one.folder, one.seed) for one in found], _predict(found[0])) as judged:
        making = _Making(found, judged, statistics)
        if start:
            parts, variables, tried, kept = making.with_start(shares)
        else:
            parts, variables, tried, kept = making.soup(uniform)
        out = Merged(
            Path(place), 'start' if start else 'uniform' if uniform else 'greedy', making.statistics,
            {name: part for name, part, _ in parts}, tried, kept, judged.val_count, judged.test_count, judged.note,
        )  # fmt: skip
    write(place, out, found[0] if start else found, variables, [entry for *_, entry in parts], command)
    return out


# --- the folders ------------------------------------------------------------------------------------------------------


def _listed(runs: Folders) -> list[str | Path]:
    listed = [runs] if isinstance(runs, str | Path) else list(runs)
    require(len(listed) > 0, 'name the work directory of a finished run')
    return listed


def _beside(folder: Place) -> Place:
    """Return the place of the result, outside of the work directory that a run is in."""
    parent = folder.parent
    while (parent / 'config.json').exists():
        parent = parent.parent
    return parent / f'{folder.name}-merged'


def _refuse_taken(place: Place) -> None:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f'{place} is there and not empty; give another --workdir for the merged network')


def members(folder: Place, seeds: bool) -> Iterator[Member]:
    """Yield the networks of a run, of all runs of a comparison or a sweep, or in a folder with a model alone.

    Args:
      folder: its work directory.
      seeds: all seeds, and not only the first, which is the one that was exported.
    """
    if (folder / 'config.json').exists() or not (folder / 'model.safetensors').exists():
        results = results_of(folder)
        if results['kind'] != 'run':
            for name in results['runs']:
                yield from members(folder / name, seeds)
            return
    elif seeds:
        raise UserError(f'{folder} is no run with seeds, but a model alone; leave --seeds out')
    first = exported(folder)
    if not seeds:
        yield first
        return
    config = config_lib.from_data(files.read_json(folder / 'config.json'))
    every = [config.seed + i for i in range(config.num_seeds)]
    for seed, step in evaluation.result_steps(config, folder, every).items():
        name = f'{folder} seed {seed}'
        if seed == config.seed:
            yield first._replace(name=name, seed=seed)
        elif (folder / 'checkpoints' / str(seed) / f'step_{step}').is_dir():
            yield first._replace(name=name, seed=seed, step=step, variables=_of_seed(folder, config, seed, step, first))
        else:
            raise UserError(
                f'{folder}: the checkpoint of seed {seed} at step {step} is gone, and only the first seed has a '
                'model.safetensors; leave --seeds out'
            )


def exported(folder: Place) -> Member:
    """Read the model that a run has exported."""
    loaded = weights.load(str(folder))
    if not loaded.own:
        raise UserError(f'{folder} is no run of mixjax: its model.safetensors has the tensors of another library')
    about, image = inference.described(folder, loaded.about)
    return Member(str(folder), folder, None, about.get('step'), loaded.variables, about, image)


def _of_seed(folder: Place, config: Any, seed: int, step: int, first: Member) -> Tree:
    """Read a seed's network from its checkpoint, with the heads that an export would keep."""
    classes = len(first.about['classes'])
    variables = opened.from_checkpoint(folder, config, classes, seed, step).variables
    heads = export.plain_heads(method_registry.build(config.method, classes), variables['params']['heads'])
    return jax.tree.map(np.asarray, {**variables, 'params': {**variables['params'], 'heads': heads}})


def check_alike(one: Member, other: Member) -> None:
    """Refuse to merge networks whose weights have different meanings."""
    for what, key in (('network', 'model'), ('dtype', 'dtype')):
        if one.about.get(key) != other.about.get(key):
            raise UserError(
                f'{other.name} and {one.name} cannot be merged: their {what} is {other.about.get(key)!r} and '
                f'{one.about.get(key)!r}'
            )
    if list(one.about['classes']) != list(other.about['classes']):
        raise UserError(
            f'{other.name} and {one.name} cannot be merged: they know different classes, or in another order'
        )
    different = [key for key in LIKE if _plain(one.image.get(key)) != _plain(other.image.get(key))]
    different += ['channels'] * (one.about['channels'] != other.about['channels'])
    if different:
        raise UserError(
            f'{other.name} and {one.name} cannot be merged: they see images differently (config.image: '
            f'{", ".join(different)})'
        )
    heads, others = (set(each.variables['params'].get('heads', {})) for each in (one, other))
    if _shapes(one.variables) != _shapes(other.variables) or heads != others:
        raise UserError(f'{other.name} and {one.name} cannot be merged: their heads or their layers differ in shape')
    if heads != {'target'} and one.about['method'] != other.about['method']:
        raise UserError(
            f'{other.name} and {one.name} cannot be merged: their methods differ, and each predicts from several heads'
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _predict(member: Member) -> Callable[..., Any]:
    return inference.predictor_of(member.folder, dict(member.about), member.variables['params'].get('heads', {}))


# --- the merge --------------------------------------------------------------------------------------------------------


class _Making(NamedTuple):
    """A merge on its way: the networks, what judges them, and what becomes of BatchNorm's statistics."""

    found: list[Member]
    judged: Judge
    asked: Statistics

    @property
    def statistics(self) -> Statistics:
        """The treatment of BatchNorm's statistics: as asked, or averaged where there are no training images."""
        return self.asked if self.judged.built is not None else 'average'

    def finished(self, variables: Tree, mixture: bool) -> Tree:
        """Return the merged variables with the statistics that were asked for; those of one network stay its own."""
        return self.judged.reestimated(variables) if mixture and self.statistics == 'recompute' else variables

    def with_start(self, shares: Sequence[float]) -> Made:
        """Interpolate between the pretrained network and the one run."""
        (run,) = self.found
        spec, start = start_of(run)

        def at(share: float) -> Tree:
            return self.finished(weight_average.interpolate(start, run.variables, share), 0 < share < 1)

        kept, judged = shares[0], self.judged
        if len(shares) > 1 and not judged.val_count:
            kept = 0.5
            shares = sorted({*shares, kept}) if judged.built is not None else (kept,)
        tried = tuple(
            Tried(f'share {share:g}', share, *measured)
            for share, measured in zip(shares, judged.measure([at(share) for share in shares]), strict=True)
        )
        if len(shares) > 1 and judged.val_count:
            kept = _best(tried)
        entries = [
            (spec, 1 - kept, {'start': spec, 'share': 1 - kept}),
            (run.name, kept, {**_entry(run), 'share': kept}),
        ]
        return entries, at(kept), tried, next(one for one in tried if one.share == kept)

    def soup(self, uniform: bool) -> Made:
        """Average the networks: all of them, or those that a greedy search takes."""
        found, judged = self.found, self.judged
        if not uniform and not judged.val_count:
            raise UserError(
                'a greedy soup chooses by the accuracy on a validation part, and there is none'
                + (f' ({judged.note})' if judged.note else '; hold one out in training (config.target.val=0.2)')
                + ', or take the mean of all (--uniform)'
            )

        def of(numbers: Sequence[int]) -> Tree:
            averaged = weight_average.mean([found[k].variables for k in numbers])
            return self.finished(averaged, not any(_equal(averaged, found[k].variables) for k in numbers))

        alone = judged.measure([one.variables for one in found])
        tried = [Tried(one.name, None, *measured) for one, measured in zip(found, alone, strict=True)]
        taken = tuple(range(len(found)))
        if not uniform:
            scores = [one.val['accuracy'] if one.val else 0.0 for one in tried]
            taken = weight_average.greedy(scores, lambda numbers: judged.validated(of(numbers)))
        variables = of(taken)
        kept = Tried(f'the mean of {len(taken)}', None, *judged.measure([variables])[0])
        entries = [(found[k].name, 1 / len(taken), {**_entry(found[k]), 'share': 1 / len(taken)}) for k in taken]
        return entries, variables, (*tried, kept), kept


Made: TypeAlias = 'tuple[list[tuple[str, float, dict[str, Any]]], Tree, tuple[Tried, ...], Tried]'


def start_of(run: Member) -> tuple[str, Tree]:
    """Return the weights that a run began from, and their variables with the run's heads.

    Where these weights have a classifier of the run's own classes, it is the head `target`; a new head has no start,
    and the run's stays.
    """
    path = run.folder / 'config.json'
    if not path.exists():
        raise UserError(f'{run.folder} has no config.json, which names the weights that a run began from')
    config = config_lib.from_data(files.read_json(path))
    spec = config.model.weights
    if not spec:
        raise UserError(f'{run.folder} began without pretrained weights (config.model.weights), so it has no start')
    net = registry.build(config.model.name, init=config.model.init)
    channels = max(run.about['channels'], len(run.image['mean']))
    image = jnp.zeros((1, run.image['crop'], run.image['crop'], channels))
    found, loaded = weights.into(spec, net, config.model.name, image)
    start = jax.tree.map(np.asarray, weights.with_classifier(found, 'target'))
    own, heads = run.variables['params']['heads'], start['params']['heads']
    # Foreign weights do not name their classes; `keep` says that they are the run's.
    known = list(loaded.about['classes']) == list(run.about['classes']) if loaded.own else config.model.head == 'keep'
    if known and set(own) == {'target'} and 'target' in heads:
        kept = {'target': heads['target']}
        own = kept if _shapes(kept) == _shapes(own) else own
    return spec, {**start, 'params': {**start['params'], 'heads': own}}


def _equal(a: Tree, b: Tree) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _best(tried: Sequence[Tried]) -> float:
    """Return the share with the best accuracy on the validation part, the largest of equals."""

    def rank(one: Tried) -> tuple[float, float]:
        assert one.val is not None and one.share is not None
        return one.val['accuracy'], one.share

    share = max(tried, key=rank).share
    assert share is not None
    return share


def _entry(member: Member) -> dict[str, Any]:
    """Return a network as `merged_from` lists it."""
    return {'run': member.name, 'seed': member.seed, 'step': member.step}


# --- the result -------------------------------------------------------------------------------------------------------


def write(
    place: Place, out: Merged, found: Member | Sequence[Member], variables: Tree, parts: list[dict[str, Any]],
    command: str,
) -> None:  # fmt: skip
    """Write `model.safetensors` and `model.json`, as a run does, and `merge.json`, the record of the accuracies."""
    every = [found] if isinstance(found, Member) else list(found)
    about, methods = every[0].about, [one.about['method'] for one in every]
    files.create(place)
    files.write(place / 'model.safetensors', weights.to_bytes(variables))
    files.write_json(place / 'model.json', {
        **{key: about[key] for key in OF_NETWORK if key in about},
        'method': methods[0] if all(one == methods[0] for one in methods) else {},
        'merged_from': parts,
        'merge': out.rule,
        'statistics': out.statistics,
        'command': command,
    })  # fmt: skip
    files.write_json(place / FILE, {
        'kind': 'merge',
        'mixjax': __version__,
        'rule': out.rule,
        'statistics': out.statistics,
        'merged_from': parts,
        'val_examples': out.val_examples,
        'test_examples': out.test_examples,
        'tried': [one._asdict() for one in out.tried],
        'kept': out.kept._asdict(),
        'note': out.note,
        'command': command,
    })  # fmt: skip
