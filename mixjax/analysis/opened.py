"""A finished run, opened to be measured: its data, its networks and their forward pass.

A run must have `config.json` and `results.json`; the images of its target data set; for the first seed
`model.safetensors` or a checkpoint, for every other seed its checkpoint. The pretrained weights are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import config as config_lib
from mixjax import inference, models
from mixjax.config import method_registry
from mixjax.data.datasets import resolve as sets_lib
from mixjax.data.feed import augment
from mixjax.data.feed.augment import Geometry
from mixjax.data.labelled import run_data
from mixjax.data.labelled.run_data import Sets
from mixjax.errors import UserError
from mixjax.host.storage import Place
from mixjax.models import weights
from mixjax.models.net import Net
from mixjax.rundir import checkpoint, files, integrity
from mixjax.train import evaluation, export, input_digests, seeds
from mixjax.train.shared import build_network

Array = jax.Array
Tree = Any


class Network(NamedTuple):
    """A seed's network at one step. variables: the first argument of `net.apply`."""

    seed: int
    step: int
    variables: Tree

    @property
    def heads(self) -> Tree:
        return self.variables['params']['heads']


class Examples(NamedTuple):
    """Examples of one part: image (n, H, W, C) uint8, label (n,), and `whole`, the size of the part."""

    image: np.ndarray
    label: np.ndarray
    whole: int


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: its work directory.
      config: its config.
      sets: its data sets.
      net: its network.
      geometry: the crop and normalisation of its images.
      batch: number of images in a forward pass.
      programs: a cache of compiled programs.
      known: a cache of networks, {seed: network, or None if it is lost}.
    """

    folder: Place
    config: Any
    sets: Sets
    net: Net
    geometry: Geometry
    batch: int
    programs: dict[Any, Callable] = field(default_factory=dict)
    known: dict[int, Network | None] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.sets.train.classes

    @property
    def every(self) -> list[int]:
        """Seeds of the run."""
        return [self.config.seed + i for i in range(self.config.num_seeds)]

    # --- images -------------------------------------------------------------------------------------------------------

    def examples(self, seed: int, part: str, most: int = 0) -> Examples:
        """Return labelled or test images of a seed.

        Args:
          seed: the seed.
          part: 'train' for the labelled images, or 'test'.
          most: largest number of images, a fixed random choice; 0 for all.
        """
        if part == 'train':
            images = seeds.subset(self.sets.train, redraw_rows(self, seed).labelled)
        elif self.sets.test is not None:
            images = seeds.all_images(self.sets.test)
        else:
            images = seeds.undrawn_images(self.sets, redraw_rows(self, seed).known)
        rows = np.arange(len(images.label))
        if most and len(rows) > most:
            rows = np.sort(np.random.RandomState(0).permutation(rows)[:most])
        return Examples(images.image[rows], images.label[rows], len(images.label))

    def test_inputs(self, image: np.ndarray) -> Array:
        """Return the test inputs of the network for stored images: the centre, normalised."""
        return augment.centred(jnp.asarray(image), self.geometry)

    # --- forward passes -----------------------------------------------------------------------------------------------

    def forward(self, network: Network) -> Callable[[Array], dict[str, Array]]:
        """Return the function from inputs (n, H, W, C) to {'logits': (n, c), 'features': (n, d)}, in eval mode."""
        plain = set(network.heads) == {'target'}
        if plain not in self.programs:
            predict = predictor(self, network)

            def apply(variables: Tree, x: Array) -> dict[str, Array]:
                out, _ = self.net.apply(variables, x, train=False)
                return {'logits': predict(out), 'features': out.features}

            self.programs[plain] = jax.jit(apply)
        run = self.programs[plain]
        return lambda x: self.in_batches(lambda part: run(network.variables, part), x)

    def features(self, network: Network, images: Any) -> np.ndarray:
        """Return the features (n, d) of stored images (`Images` or `Examples`), which are read a batch at a time."""
        forward = self.forward(network)
        starts = range(0, len(images.label), self.batch)
        found = [forward(self.test_inputs(images.image[start : start + self.batch]))['features'] for start in starts]
        return np.concatenate([np.asarray(part) for part in found])

    def maps(self, network: Network, name: str) -> Callable[[Array], Array]:
        """Return the function from inputs (n, H, W, C) to the network's map `name`, (n, h, w, d), in eval mode."""

        def apply(variables: Tree, x: Array) -> dict[str, Array]:
            out, _ = self.net.apply(variables, x, train=False)
            return {'map': out.maps[name]}

        run = self.programs.setdefault(name, jax.jit(apply))
        return lambda x: self.in_batches(lambda part: run(network.variables, part), x)['map']

    def in_batches(self, run: Callable[[Array], dict[str, Array]], x: Array) -> dict[str, Array]:
        """Apply `run` to all of x, (n, ..), a batch at a time; the last one is padded, so there is one program."""
        found = []
        for start in range(0, len(x), self.batch):
            part = x[start : start + self.batch]
            many = len(part)
            full = part if many == self.batch else jnp.resize(part, (self.batch, *part.shape[1:]))
            found.append({name: y[:many] for name, y in run(full).items()})
        return {name: jnp.concatenate([one[name] for one in found]) for name in found[0]}


def open_run(folder: Place, batch: int = 256) -> Run:
    """Open the finished run in a work directory.

    Args:
      folder: folder of the run; for a comparison or sweep, that of one of its runs.
      batch: number of images in a forward pass.
    """
    if not (folder / 'config.json').exists():
        raise UserError(f'{folder} is not a work directory: it has no config.json')
    config = config_lib.from_data(files.read_json(folder / 'config.json'))
    if files.finished(folder, config.steps) is None:
        raise UserError(f'{folder} is not finished: give the command that began it again')
    config, sets = inference.open_data(folder)
    net, geometry, _ = build_network(config, sets)
    return Run(folder, config, sets, net, geometry, batch)


def redraw_rows(run: Run, seed: int) -> Any:
    """Draw again the examples that a seed learned from, and check them against the run's `splits.json`."""
    found = run_data.draw_rows(run.config, run.sets, seed)
    path = run.folder / 'splits.json'
    if path.exists():
        rows = found.labelled if run.sets.rows is None else run.sets.rows[found.labelled]
        told = files.read_json(path).get('labelled rows', {}).get(str(seed))
        if told is not None and told != rows.tolist():
            raise UserError(
                f'according to {path} seed {seed} learned from other examples than are drawn now: the data or the '
                'version of mixjax have changed'
            )
    return found


def source(run: Run, other: Place) -> sets_lib.Parts:
    """Return the source data set of a run, or that of the run in `other` if this one has none."""
    node = run.config.source
    if not node.name and (other / 'config.json').exists():
        node = config_lib.from_data(files.read_json(other / 'config.json')).source
    if not node.name:
        raise UserError(
            f'{run.folder}: the run names no source data set (config.source.name); name a run that does with '
            '--auxiliary=RUN'
        )
    lost = None if run.config.synthetic.per_class else sets_lib.missing(node, run.config.data_dir)
    if lost:
        raise UserError(lost)
    parts = run_data.load(run.config, node)
    if run.config.source.name:
        input_digests.same_source(parts.train, run.folder)
    return parts


# --- networks ---------------------------------------------------------------------------------------------------------


def networks(run: Run, most: int = 0) -> tuple[list[Network], list[str]]:
    """Return the networks that gave the run's results, and a note on each seed whose network is missing.

    Args:
      run: the run.
      most: largest number of seeds; 0 for all.
    """
    found, notes = [], []
    for seed in run.every[: most or None]:
        network = _network(run, seed)
        if network is None:
            step = evaluation.result_steps(run.config, run.folder, [seed])[seed]
            notes.append(
                f'seed {seed} is left out: its checkpoint of step {step} is gone, and only the first seed has a '
                'model.safetensors'
            )
        else:
            found.append(network)
    if not found:
        raise UserError(f'{run.folder} has no network to measure: neither model.safetensors nor checkpoints')
    return found, notes


def _network(run: Run, seed: int) -> Network | None:
    if seed not in run.known:
        run.known[seed] = _read(run, seed)
    return run.known[seed]


def _read(run: Run, seed: int) -> Network | None:
    """Read a seed's network from its checkpoint, which has all heads, or else from the exported model."""
    step = evaluation.result_steps(run.config, run.folder, [seed])[seed]
    if (run.folder / 'checkpoints' / str(seed) / f'step_{step}').is_dir():
        return checkpointed(run, seed, step)
    if seed == run.config.seed and (run.folder / 'model.safetensors').exists():
        return Network(seed, step, _exported(run.folder))
    return None


def checkpointed(run: Run, seed: int, step: int) -> Network:
    """Return the network that a checkpoint of the run evaluates."""
    return from_checkpoint(run.folder, run.config, len(run.classes), seed, step)


def from_checkpoint(folder: Place, config: Any, classes: int, seed: int, step: int) -> Network:
    """Return the network that a checkpoint evaluates, with all heads: the trained one, or what the method makes of it.

    Args:
      folder: the run's work directory.
      config: the run's config.
      classes: number of target classes.
      seed, step: of the checkpoint.
    """
    found = checkpoint.read(folder / 'checkpoints' / str(seed), step)
    variables = {'params': found['params'], **(found.get('model_state') or {})}
    method = method_registry.build(config.method, classes)
    net = models.build(config.model.name)
    return Network(seed, step, method.evaluated(net, variables, found.get('state')))


def saved(run: Run, last: Network) -> list[int]:
    """Return the steps of a seed's intact checkpoints before its last network, and the step of that network."""
    folder = run.folder / 'checkpoints' / str(last.seed)
    earlier = [step for step in integrity.steps(folder) if step < last.step]
    return sorted([last.step, *(step for step in earlier if not integrity.fault(folder / f'step_{step}'))])


def _exported(folder: Place) -> Tree:
    return jax.tree.map(jnp.asarray, weights.load(str(folder)).variables)


def snapshots(run: Run) -> Iterator[Network]:
    """Yield the first seed's networks that `config.snapshots` kept, in order of their steps."""
    for step in sorted(int(path.name) for path in run.folder.glob('snapshots/*') if path.name.isdigit()):
        yield Network(run.config.seed, step, _exported(run.folder / 'snapshots' / str(step)))


def through_training(run: Run) -> list[Network]:
    """Return the snapshots and then the first seed's last network; only the latter, where there are no snapshots."""
    kept = list(snapshots(run))
    last = _network(run, run.config.seed)
    return kept if last is None or kept and kept[-1].step >= last.step else [*kept, last]


def predictor(run: Run, network: Network) -> Callable[[Any], Array]:
    """Return the function from the network's output to the logits that are evaluated."""
    return inference.predictor_of(run.folder, {'classes': run.classes, 'method': run.config.method}, network.heads)


def classifier(run: Run, network: Network) -> Tree:
    """Return the kernel (d, c) and bias (c,) from the features to the target's logits."""
    heads = network.heads
    if set(heads) != {'target'}:
        heads = export.plain_heads(method_registry.build(run.config.method, len(run.classes)), heads)
    if set(heads) != {'target'}:
        raise UserError(
            f'{run.folder}: {method_registry.title(run.config.method)} does not predict by one linear classifier'
        )
    return heads['target']
