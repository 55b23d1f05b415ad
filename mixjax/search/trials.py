"""The runs of a search: their configs, and training them. Each is an ordinary run with a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import Config
from mixjax.data.labelled import splits
from mixjax.host.progress import Progress
from mixjax.host.storage import Place
from mixjax.models.net import depths
from mixjax.rundir import files
from mixjax.search.backbones import Backbone
from mixjax.search.plan import STOPS, Trial
from mixjax.train import experiment

Overrides = Sequence[tuple[str, str]]
# A share of each class that is held out would be lost to the folds.
ALL_LABELLED = (('target.holdout', '0'), ('target.val', '0'), ('keep', 'last'))
TIMED = 2  # steps of a run that is only timed
SIDE = 224  # of images on CPUs, for networks that were published for larger ones and take any size


class Common(NamedTuple):
    """Everything that the runs of a search share.

    Attributes:
      overrides: settings of the user, as (key, text).
      backbones: the networks.
      splits: the file with the folds' examples, by seed; that with the number `last` learns from all.
      last: that seed.
      batch: size of a batch.
      tested: whether the folder has a test part.
    """

    overrides: Overrides
    backbones: Sequence[Backbone]
    splits: str
    last: int
    batch: int
    tested: bool

    def name(self, network: int) -> str:
        """Return the name of a network; of several with the same architecture each has a number."""
        mine = self.backbones[network].name
        alike = [place for place, one in enumerate(self.backbones) if one.name == mine]
        return mine if len(alike) == 1 else f'{mine}-{1 + alike.index(network)}'


def base(overrides: Overrides, backbone: Backbone, method: str) -> Config:
    """Return the config of a network and a method on the folder, with all of its images in the train part."""
    given = dict(overrides)
    own = [('model.name', backbone.name), ('model.weights', backbone.weights), ('method.name', method)]
    if (
        jax.default_backend() == 'cpu'
        and 'image.crop' not in given
        and models.family(backbone.name) in ('vit', 'dinov3')
    ):
        published = models.image_settings(backbone.name)['crop']
        own += [('image.crop', str(SIDE))] if published > SIDE else []
    return config_lib.load('folder', [*own, *ALL_LABELLED, *overrides])


def settings(common: Common, network: int, method: dict[str, Any], *, seeds: Sequence[int], steps: int,
             factor: float = 1.0, freeze: Sequence[str] = ()) -> Config:  # fmt: skip
    """Return the config of a run.

    Args:
      common: what the runs share.
      network: the place of its network.
      method: settings of its method.
      seeds: the folds that it learns from, in a row; or the one that learns from all images.
      steps: its steps.
      factor: of the learning rate.
      freeze: parts of the network that stay as they are.
    """
    config = base(common.overrides, common.backbones[network], method['name'])
    with config.unlocked():
        config.method.update(method)
        config.target.splits = common.splits
        config.target.test = splits.REST
        if seeds[0] == common.last:
            config.target.test = '' if common.tested else splits.NOTHING
        config.seed, config.num_seeds = seeds[0], len(seeds)
        config.steps, config.batch_size = steps, common.batch
        config.eval_batch_size = min(config.eval_batch_size, 32) if jax.default_backend() == 'cpu' else 256
        config.eval_every = steps
        config.checkpoint_every = max(1, -(-steps // STOPS))
        config.log_every = max(1, steps // STOPS)
        config.optim.lr *= factor
        config.optim.freeze = (*config.optim.freeze, *freeze)
        config.search.update(config_lib.base().search)
    return config


class Ticker(Progress):
    """The progress of a run of a search: on a terminal its steps, and nothing else."""

    def __init__(self, total: int, label: str, quiet: bool) -> None:
        super().__init__(total, quiet=quiet)
        self.label = label
        self.phases: list[tuple[float, str]] = []

    def begin(self, label: str) -> None:
        """Keep the label of the trial, which is more than that of its method."""

    def say(self, text: str) -> None:
        """Print nothing: a search says what came out."""

    def phase(self, text: str, often: bool = False) -> None:
        """Remember when it began, and show it on a terminal."""
        self.phases.append((time.monotonic(), text))
        if self._out().isatty():
            super().phase(text, often)

    def step(self, seed: int | str, step: int, steps: int, loss: float | None, count: int) -> None:
        """Show it on a terminal."""
        if self._out().isatty():
            super().step(seed, step, steps, loss, count)


def train(config: Config, folder: Place, label: str, *, quiet: bool, command: str = '') -> Ticker:
    """Train a run, or what is left of it; returns its progress."""
    ticker = Ticker(0, label, quiet)
    experiment.run(config, folder, progress=ticker, command=command)
    ticker.clear()
    return ticker


def measure(
    common: Common, trial: Trial, folder: Place, *, tested: int, forward: float, quiet: bool
) -> Trial:  # fmt: skip
    """Time a trial by a run of a few steps on one fold.

    Args:
      common: what the runs share.
      trial: the trial, of which times are not known yet.
      folder: the folder of the run.
      tested: number of images that a fold is measured on.
      forward: seconds of a forward pass of one image.
      quiet: whether nothing is shown.
    """
    config = of_trial(common, trial, (0,), TIMED)
    with config.unlocked():
        config.log_every = 1
    began = time.monotonic()
    ticker = train(config, folder, trial.label, quiet=quiet)
    whole = time.monotonic() - began
    timed = [line for line in files.read_lines(folder / 'timing.jsonl') if line['step'] == TIMED]
    step = min(line['seconds'] / line['steps'] for line in timed) if timed else 0.0
    at = {text.partition('  ')[2]: when for when, text in ticker.phases}
    preparing = at.get('compiling the training step', 0.0) - at.get('preparing', 0.0)
    fold = max(0.0, preparing) + tested * forward
    return trial._replace(step=step, start=max(0.0, whole - fold - TIMED * step), fold=fold)


def of_trial(common: Common, trial: Trial, folds: Sequence[int], steps: int) -> Config:
    """Return the config of a trial on some folds."""
    return settings(
        common, trial.network, {'name': trial.method}, seeds=folds, steps=steps, factor=trial.factor,
        freeze=trial.freeze,
    )  # fmt: skip


def lower_parts(common: Common, network: int) -> tuple[str, ...]:
    """Return the parts of a network below its last third, in which a backward pass takes most of its time."""
    config = base(common.overrides, common.backbones[network], 'finetune')
    net = models.build(config.model.name)
    image = jax.ShapeDtypeStruct((1, config.image.crop, config.image.crop, len(config.image.mean)), np.float32)
    made = jax.eval_shape(lambda key, x: net.init(key, x, {'target': 2}), jax.random.key(0), image)
    paths = [tuple(part.key for part in path) for path, _ in jax.tree_util.tree_leaves_with_path(made['params'])]
    order = sorted(
        {path: depth for path, depth in depths(paths).items() if path[0] != 'heads'}.items(), key=lambda x: x[1]
    )
    parts = list(dict.fromkeys(net.group(path) for path, _ in order))
    stages = [part for part in parts if part.startswith('stage')]
    above = stages[len(stages) - max(1, len(stages) // 3) :]
    return tuple(part for part in parts if part not in above and part != 'final')


Say = Callable[[str], None]
