"""The accuracy of networks that are made after training, by the evaluation that training uses.

The networks of a merge may have learned from different examples. So the validation part is that of all of them
together, without the examples that any of them has learned from, and of the test part only examples are left that none
of them has seen. For one run these are the parts of the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.analysis import opened
from mixjax.analysis.opened import Run
from mixjax.data.feed import augment
from mixjax.data.feed.batches import Images
from mixjax.errors import UserError
from mixjax.host.storage import Place
from mixjax.maths import weight_average
from mixjax.method import Method
from mixjax.train import accuracy, mesh, placement, program, seed_batch, seeds
from mixjax.train.placement import EvalImages
from mixjax.train.program import Program
from mixjax.train.shared import setup_to_evaluate

Array = jax.Array
Tree = Any
Measured: TypeAlias = dict[str, float]
Both: TypeAlias = 'tuple[Measured | None, Measured | None]'


class Judge(NamedTuple):
    """The evaluation of networks on one run's data.

    built: the run's programs; None where there are no data, and then `note` says why.
    val, test: the images that none of the networks has learned from. train: those that they have learned from.
    """

    built: Program | None
    val: EvalImages | None
    test: EvalImages | None
    train: Images | None
    note: str = ''

    @property
    def val_count(self) -> int:
        """The number of validation images."""
        return self.val.count if self.val else 0

    @property
    def test_count(self) -> int:
        """The number of test images."""
        return self.test.count if self.test else 0

    def measure(self, networks: Sequence[Tree]) -> list[Both]:
        """Return the measures of networks on the validation and on the test part; None where there is none."""
        val, test = (
            self._run(name, networks, part) if part else [None] * len(networks)
            for name, part in (('val', self.val), ('test', self.test))
        )
        return list(zip(val, test, strict=True))

    def validated(self, variables: Tree) -> float:
        """Return the accuracy of one network on the validation part."""
        assert self.val is not None
        return self._run('val', [variables], self.val)[0]['accuracy']

    def _run(self, name: str, networks: Sequence[Tree], images: EvalImages) -> list[Measured]:
        """Evaluate networks by the run's program, as many at once as it has seeds at once."""
        built = self.built
        assert built is not None
        compiled, together = built.validate if name == 'val' else built.evaluate, built.mesh.shape['trial']
        found: list[Measured] = []
        for start in range(0, len(networks), together):
            some = list(networks[start : start + together])
            stacked = mesh.shard_over_trials(
                built.mesh, seed_batch.fill_trials(built, some), built.config.shard_params
            )
            found += accuracy.measure(compiled, stacked, images.batches, images.count)[: len(some)]
        return found

    def reestimated(self, variables: Tree) -> Tree:
        """Return the variables with BatchNorm's statistics of the training images under these weights.

        They are the means over batches of the images, centre-cropped, in the order of their rows; each batch counts by
        its size. A network without BatchNorm is returned as it is.
        """
        state = {name: tree for name, tree in variables.items() if name != 'params'}
        if not jax.tree.leaves(state):
            return variables
        built, images = self.built, self.train
        assert built is not None and images is not None

        @jax.jit
        def moved(params: Tree, image: Array) -> tuple[Tree, Tree]:
            def rule(old: Tree) -> Tree:
                return built.net.apply({'params': params, **old}, image, train=True, rng=None)[1]

            zeros, ones = jax.tree.map(jnp.zeros_like, state), jax.tree.map(jnp.ones_like, state)
            return jax.jvp(rule, (zeros,), (ones,))

        count, size = len(images.label), max(1, built.config.batch_size // built.config.accumulate)
        total = jax.tree.map(lambda x: np.zeros(np.shape(x)), state)
        for rows in np.array_split(np.arange(count), -(-count // size)):
            image = augment.centred(jnp.asarray(images.image[rows]), built.shared.geometry)
            share = len(rows) / count
            zero, slope = moved(variables['params'], image)
            batch = weight_average.from_zero_and_slope(zero, slope, state)
            total = jax.tree.map(lambda sum, one, share=share: sum + share * one, total, batch)
        return {'params': variables['params'], **jax.tree.map(lambda x, old: x.astype(old.dtype), total, state)}


@contextlib.contextmanager
def of(members: Sequence[tuple[Place, int | None]], predict: Callable[..., Array]) -> Iterator[Judge]:
    """Make the judge of networks; without data, it has a note and no programs.

    Args:
      members: the run and the seed of each; None is the run's first.
      predict: from a network's outputs to its logits.
    """
    runs = _opened([folder for folder, _ in members])
    if isinstance(runs, str):
        yield Judge(None, None, None, None, runs)
        return
    one = next(iter(runs.values()))
    drawn = [
        opened.redraw_rows(runs[folder], runs[folder].config.seed if seed is None else seed) for folder, seed in members
    ]
    method = Method(_no_loss, predict=predict)
    built = program.build_program(setup_to_evaluate(one.config, one.sets), one.config, method)
    learned, known = (_union([getattr(each, name) for each in drawn]) for name in ('train', 'known'))
    validated = _union([each.val for each in drawn])
    sets, labels = one.sets, one.sets.train.labels
    if sets.val is not None:
        val = seeds.all_images(sets.val)
    else:
        val = seeds.subset(sets.train, validated[~np.isin(validated, learned)])
    if sets.test is not None:
        test = seeds.all_images(sets.test)
    else:
        test = seeds.undrawn_images(sets, known) if len(known) < len(labels) else None
    placed = _placed(built, val, sets.val), _placed(built, test, sets.test)
    try:
        yield Judge(built, *placed, seeds.subset(sets.train, learned))
    finally:
        for images in placed:
            if images is not None:
                images.close()


def _no_loss(*_: Any) -> Any:
    raise AssertionError('a judge does not train')


def _union(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return each row once, in the order in which they first come."""
    every = np.concatenate(rows)
    return every[np.sort(np.unique(every, return_index=True)[1])]


def _placed(built: Program, images: Images | None, same: Any) -> EvalImages | None:
    """Put images where the run's evaluation finds them. same: whether all seeds of the run have the same ones."""
    if images is None or not len(images.label):
        return None
    every = [images] if same is not None else [images] * built.mesh.shape['trial']
    here = built.config.feed != 'stream' and images.image.nbytes <= placement.image_budget(built.mesh)
    return placement.eval_images(built, every, same=same is not None, resident=here)


def _opened(folders: Sequence[Place]) -> dict[Place, Run] | str:
    """Open runs of the same data; or return the first line of the reason why that cannot be."""
    try:
        runs = {folder: opened.open_run(folder) for folder in dict.fromkeys(folders)}
    except UserError as error:
        return str(error).partition('\n')[0]
    one, *others = runs.values()
    for other in others:
        if one.sets.digests != other.sets.digests or one.classes != other.classes:
            return f'{other.folder} and {one.folder} were trained on different data'
    return runs
