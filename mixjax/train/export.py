"""The files that a run exports: the model, and pictures of the network's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.feed import augment
from mixjax.data.feed.batches import Batch
from mixjax.errors import UserError
from mixjax.host.processes import by_first, only_first
from mixjax.host.storage import Place
from mixjax.method import Method, Prepared, Run
from mixjax.models import weights
from mixjax.models.net import BOUND, Net, Out, Tap, bind, no_tap
from mixjax.rundir import files
from mixjax.tasks import Scale, Task
from mixjax.train.step import TrainState, context

Array = jax.Array
Tree = Any
SHOWN = 8  # number of examples in a picture


# --- the model --------------------------------------------------------------------------------------------------------


def plain_heads(method: Method, heads: Tree) -> Tree:
    """Return the heads that prediction needs: one, `target`, if the method's `predict` only selects classes.

    A head's kernel is its output for the unit features, and its bias its output for zeros, so `predict`
    applied to them selects the columns. Where it does more than select, all heads are kept.
    """

    def picked(logits: dict[str, Array], features: Array) -> Array:
        return method.predict(Out(logits, features, {}))

    some = jax.random.normal(jax.random.key(0), (4, next(iter(heads.values()))['kernel'].shape[0]))
    try:
        kernel = picked({name: head['kernel'] for name, head in heads.items()}, jnp.eye(some.shape[1]))
        bias = picked({name: head['bias'][None] for name, head in heads.items()}, 0 * some[:1])[0]
        whole = picked({name: some @ head['kernel'] + head['bias'] for name, head in heads.items()}, some)
        # Up to the rounding of sums as large as the largest logit; one of them may be near 0.
        if bool(jnp.allclose(whole, some @ kernel + bias, rtol=0, atol=1e-5 * float(jnp.abs(whole).max()))):
            return {'target': {'kernel': kernel, 'bias': bias}}
    except (UserError, KeyError, TypeError, ValueError):  # for example because it reads the maps
        pass
    return dict(heads)


class About(NamedTuple):
    """Facts of the data, and of the weights, that a network was trained on.

    classes: names of the target classes, or of the outputs of another task.
    channels: number of channels of the stored images.
    scale: the standardisation of the labels of the first seed, if there is one.
    licence: of the weights that training started from; '' where it is not known.
    """

    classes: tuple[str, ...]
    channels: int
    task: Task
    scale: Scale | None
    licence: str = ''


@only_first
def write_model(
    folder: Place, config: Any, method: Method, variables: Tree, data: About, step: int, whole: bool = False
) -> None:
    """Write `model.safetensors` and `model.json`: everything that prediction, or another run, needs.

    Args:
      folder: the run's folder.
      config: the run's config.
      method: the method.
      variables: those of the network.
      data: facts of the data.
      step: the step of the network.
      whole: keep all heads, and not only the ones that prediction needs.
    """
    params = variables['params']
    params = params if whole else {**params, 'heads': plain_heads(method, params['heads'])}
    kept = jax.tree.map(np.asarray, {**variables, 'params': params})
    files.write(folder / 'model.safetensors', weights.to_bytes(kept))
    about = {
        'format': 1,
        'model': config.model.name,
        'dtype': config.model.dtype,
        'classes': list(data.classes),
        'data': config.target.name,
        'image': files.to_data(config.image),
        'channels': data.channels,
        'method': files.to_data(config.method),
        'steps': config.steps,
        'step': step,
    }
    if data.licence:
        about['licence'] = data.licence
    if data.task.rows:
        about['task'] = data.task.name
    if data.scale is not None:
        about['scale'] = {name: values.tolist() for name, values in data.scale._asdict().items()}
    files.write_json(folder / 'model.json', about)


@by_first
def is_current(folder: Place, steps: int) -> bool:
    """Return whether the model in the folder is from a run of this many steps, and not from before it was extended."""
    path = folder / 'model.json'
    return path.exists() and files.read_json(path)['steps'] == steps


# --- pictures ---------------------------------------------------------------------------------------------------------


def make_viewer(
    net: Net, method: Method, feed: Batch, run: Run, geometry: augment.Geometry
) -> Callable[[TrainState, Tree, Tree, Tree], dict[str, Array]]:
    """Make a function that returns a batch, and the images that enter the network in train mode.

    The net records its input, so this is the same for every method. The loss itself is dead code here
    and costs nothing.

    Args:
      net: the network.
      method: the method.
      feed: (inputs, key, step) -> batch.
      run: constants of the run.
      geometry: preprocessing of the images.
    """

    def view_batch(ts: TrainState, start: Tree | None, frozen: Tree, inputs: Tree) -> dict[str, Array]:
        ctx = context(feed, run, ts, frozen, inputs)
        bound = bind(net, start, ctx.rng)
        entered = []

        def apply(
            variables: Tree, image: Array, *, train: bool, tap: Tap = no_tap, rng: Array | None = BOUND
        ) -> tuple[Out, Tree]:
            if train:
                entered.append(image)
            return bound.apply(variables, image, train=train, tap=tap, rng=rng)

        method.loss(bound._replace(apply=apply), ts.params, ctx)
        partner = ctx.batch['partner']
        order = (partner + jnp.arange(len(partner))[:, None] * partner.shape[1]).ravel()
        pictures = {'image': ctx.batch['image'], 'partner': ctx.batch['image'][order]}
        # A method may forward two batches at once; the first of them is the target's.
        pictures['seen'] = (entered[-1] if entered else ctx.batch['image'])[: len(order)]
        if 'source_image' in ctx.batch:
            pictures['source'] = ctx.batch['source_image']
        pictures = {name: augment.denormalise(x[:SHOWN], geometry) for name, x in pictures.items()}
        # Of a task whose labels are rows, the pictures have none.
        label = ctx.batch['label'][:SHOWN]
        return {**pictures, 'label': label if label.ndim == 1 else jnp.full(len(label), -1)}

    return jax.jit(view_batch)


def write_samples(path: Place, view_batch: Callable[[int], dict[str, Array]]) -> None:
    """Write `samples.npz`: from a few steps, the pictures that differ most from the images they were made of.

    Some methods leave some batches unchanged, or nearly so.

    Args:
      path: the file.
      view_batch: step -> pictures.
    """
    found = [jax.tree.map(np.asarray, view_batch(step)) for step in (1, 3, 5, 7)]
    changed = [np.abs(one['seen'].astype(int) - one['image']).mean() for one in found]
    files.write_arrays(path, found[int(np.argmax(changed))])


def write_pairs(folder: Place, seed: int, prepared: Prepared, target: Dataset, source: Dataset) -> None:
    """Write `pairs.json` and `pairs.npz`: the source classes that each target class draws from, with a picture each.

    Args:
      folder: the run's folder.
      seed: the first seed.
      prepared: the result of `prepare`, with a draw.
      target, source: the data sets.
    """
    draw = prepared.draw
    assert draw is not None

    def name(t: int, k: int) -> str:
        inside = np.unique(source.labels[draw.rows[draw.start[t, k] :][: draw.count[t, k]]])
        return source.classes[inside[0]] if len(inside) == 1 else f'{len(inside)} classes'

    table = []
    for t, name_t in enumerate(target.classes):
        rounds = range(int(draw.rounds[t]))
        similarity = [] if draw.score is None else [round(float(draw.score[t, k]), 6) for k in rounds]
        table.append({'target': name_t, 'sources': [name(t, k) for k in rounds], 'similarity': similarity})
    first = np.array([np.flatnonzero(target.labels == t)[0] for t in range(len(target.classes))])
    drawn = source.read(draw.rows[draw.start.ravel()])
    shown = {'target': target.read(first), 'source': drawn.reshape(draw.start.shape + drawn.shape[1:])}
    files.write_arrays(folder / 'pairs.npz', shown)
    files.write_json(folder / 'pairs.json', {'seed': seed, 'pairs': table, 'notes': dict(prepared.notes)})
