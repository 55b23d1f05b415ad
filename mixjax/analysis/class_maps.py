"""The class activation map that suits a network: by its classifier where it pools the last map, else by gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.analysis import cam
from mixjax.errors import UserError
from mixjax.models.net import Net, Out

Array = jax.Array
Tree = Any


class Source(NamedTuple):
    """A network that maps are computed of.

    Attributes:
      net: the network.
      variables: its variables.
      predict: forward pass -> the logits of the classes.
      kernel: () -> (d, c), the kernel of its classifier; None where there is no single one.
      batch: number of images in a forward pass.
      programs: a cache of compiled programs.
      name: the network's name, for messages.
    """

    net: Net
    variables: Tree
    predict: Callable[[Out], Array]
    kernel: Callable[[], Array | None]
    batch: int
    programs: dict[Any, Callable]
    name: str


class Inputs(NamedTuple):
    """Images in front of a network, with what a forward pass gives.

    Attributes:
      x: (n, H, W, C), the inputs.
      label: (n,), the class whose map is wanted.
      features: (n, d).
      last: (n, h, w, d), the last map.
    """

    x: Array
    label: Array
    features: Array
    last: Array


def class_maps(source: Source, inputs: Inputs) -> tuple[Array, str]:
    """Return the map (n, h, w) of each image's class, and the name of the map of the network that it is made of."""
    last = inputs.last.astype(jnp.float32)
    if pools(last, inputs.features) and (kernel := source.kernel()) is not None:
        return cam.activation(last, kernel, inputs.label), 'last'
    for place in reversed(stages(source, inputs.x)):
        small = by_gradient(source, inputs.x, inputs.label, place)
        if bool(jnp.any(small != 0)):  # the last patches say nothing where a class token is pooled
            return small, place
    raise UserError(f'the logits of {source.name} depend on none of its maps')


def pools(last: Array, features: Array) -> bool:
    """Return whether features (n, d) are the mean of the last map (n, h, w, d) over its positions."""
    same = last.shape[-1] == features.shape[-1]
    return same and np.allclose(last.mean((1, 2)), features, rtol=1e-2, atol=1e-3)


def stages(source: Source, x: Array) -> list[str]:
    """Return the names of the maps of the network's stages, in their order."""
    out, _ = jax.eval_shape(lambda v, x: source.net.apply(v, x, train=False), source.variables, x[:1])
    return sorted(name for name in out.maps if name.startswith('stage') and '.' not in name)


def by_gradient(source: Source, x: Array, label: Array, place: str) -> Array:
    """Return the gradient-weighted map at one place, a batch at a time."""

    def weighted(variables: Tree, x: Array, label: Array) -> Array:
        def forward(x: Array, tap: Any) -> tuple[Array, dict[str, Array]]:
            out, _ = source.net.apply(variables, x, train=False, tap=tap)
            return source.predict(out), out.maps

        return cam.by_gradient(forward, x, label, place)

    program = source.programs.setdefault((place, 'by gradient'), jax.jit(weighted))
    starts = range(0, len(x), source.batch)
    parts = [slice(start, start + source.batch) for start in starts]
    return jnp.concatenate([program(source.variables, x[part], label[part]) for part in parts])
