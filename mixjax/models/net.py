"""The interface of networks: `Net`, a value of pure functions.

Every network, in any library, is wrapped in a `Net`. Variables are plain
dictionaries with one layout for all families::

    variables = {'params':      {'backbone': {'stem': .., 'stage1': .., ..}, 'heads': {name: {'kernel', 'bias'}}},
                 'batch_stats': {'backbone': {..}}}

`model_state` is `variables` without `'params'`: the part that a forward pass in train mode changes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.errors import UserError
from mixjax.models import initializers

Array = jax.Array
Tree = Any
Tap = Callable[[str, Array], Array]


def no_tap(name: str, hidden: Array) -> Array:
    """Return the activation unchanged."""
    del name
    return hidden


class Out(NamedTuple):
    """The outputs of a forward pass.

    logits: one (B, width) array for each head.
    features: (B, d), the pooled last map, input of every head (which may have dropout in between).
    maps: named (B, h, w, C) maps, `stage1` .. `stageN`; `last` is the one that is pooled; `stage1.conv`
        .. the last convolution of a stage, before normalisation. bfloat16 in a bfloat16 network.
    """

    logits: dict[str, Array]
    features: Array
    maps: dict[str, Array]


def _no_weights(*_: Any) -> Any:
    raise UserError(
        'this method compares with a pretrained network, and there is none: '
        'set config.model.weights (for example embedded://glyphnet)'
    )


EMBEDDINGS = ('cls_token', 'reg_token', 'pos_embed')  # parameters without weight decay
NO_CLASSIFIER = (
    'which the weights do not hold (self-supervised networks have none); take weights with one, for example those of '
    'ImageNet (.._in1k), or a method that needs none, such as lpft or finetune'
)


class Net(NamedTuple):
    """A network as pure functions.

    init(rng, image, heads) -> variables
        Fresh variables for images shaped like `image` (B, H, W, C) and heads `{name: width}`.
    apply(variables, image, *, train, tap=no_tap, rng=None) -> (Out, model_state)
        One forward pass with the heads that `variables` holds. `train` uses the batch's own
        statistics and returns the updated running ones. `tap(name, hidden)` may replace the
        hidden activation at `input`, `stem`, `stage1` .., and at `stage1.conv` .. the output of a
        stage's last convolution; `rng` feeds dropout and drop-connect if there are any. They are on only if
        `train` and there is an `rng`. The trainer binds one: in a loss and in `after_step` each call in train mode
        has a separate key, and `rng=` replaces it (two calls with one key see the same mask; None turns dropout off).
    group(path) -> str
        The part that a parameter belongs to: `stem`, `stage1` .., `final` for the layers that some networks have
        after the last stage, or `head:<name>`; `path` is its keys.
    redraw(rng, params, head) -> params
        The same parameters with one head redrawn.
    pretrained() -> variables
        The pretrained network that training started from; its classifier is the head `source`.
    source(image) -> Out
        That network in eval mode.

    The last two are bound by the trainer and raise a clear error if there are no weights.
    """

    init: Callable[[Array, Array, Mapping[str, int]], Tree]
    apply: Callable[..., tuple[Out, Tree]]
    group: Callable[[tuple[str, ...]], str]
    redraw: Callable[[Array, Tree, str], Tree]
    pretrained: Callable[[], Tree] = _no_weights
    source: Callable[[Array], Out] = _no_weights


class _Bound:
    """The default for `rng` in a bound `apply`: use the key that was bound."""


BOUND: Any = _Bound()
Rng = Array | Callable[[], Array] | None


def call_keys(rng: Array) -> Callable[[], Array]:
    """Return a function that gives the dropout keys of one trace: `rng` at first, `fold_in(rng, i)` for call i.

    It counts in Python, so make a new one each time tracing begins.
    """
    count = itertools.count()

    def following() -> Array:
        i = next(count)
        return jax.random.fold_in(rng, i) if i else rng

    return following


def _key(bound: Rng) -> Array | None:
    return bound() if callable(bound) else bound


def bind(net: Net, pretrained: Tree | None, rng: Rng = None) -> Net:
    """Return the net with the pretrained variables (None: there are none) and the dropout key filled in.

    Args:
      net: the network to bind.
      pretrained: variables of the pretrained network, or None.
      rng: one key for every call, or a function that gives the next one (`call_keys`). It is used only by calls in
        train mode without an explicit `rng`.
    """
    bound = rng

    def apply(
        variables: Tree, image: Array, *, train: bool, tap: Tap = no_tap, rng: Array | None = BOUND
    ) -> tuple[Out, Tree]:
        if rng is BOUND:
            rng = _key(bound) if train else None
        return net.apply(variables, image, train=train, tap=tap, rng=rng)

    if pretrained is None:
        return net._replace(apply=apply)

    def source(image: Array) -> Out:
        out, _ = net.apply(pretrained, image, train=False)
        return out

    return net._replace(apply=apply, pretrained=lambda: pretrained, source=source)


BOUND: Any = object()  # the dropout key that a net was bound with


def tapped(net: Net, last: Tap) -> Net:
    """Return the net with a tap in every forward pass, the pretrained network's too; a caller's tap runs before it."""

    def apply(
        variables: Tree, image: Array, *, train: bool, tap: Tap = no_tap, rng: Array | None = BOUND
    ) -> tuple[Out, Tree]:
        def both(name: str, hidden: Array) -> Array:
            return last(name, tap(name, hidden))

        if rng is BOUND:
            return net.apply(variables, image, train=train, tap=both)
        return net.apply(variables, image, train=train, tap=both, rng=rng)

    def source(image: Array) -> Out:
        out, _ = net.apply(net.pretrained(), image, train=False, tap=last)
        return out

    return net._replace(apply=apply, source=source)


def torch_linear(rng: Array, fan_in: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw by torch's default for a linear layer, weight and bias alike: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return jax.random.uniform(rng, shape, dtype, -bound, bound)


def dropout_off(module: nn.Module, train: bool) -> bool:
    """Return whether dropout is off: outside of training, or without a key for it."""
    return not (train and module.has_rng('dropout'))


class Linear(nn.Module):
    """A classifier on pooled features: (B, d) -> (B, width), float32 or wider."""

    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        d = features.shape[-1]
        kernel = self.param('kernel', lambda rng: torch_linear(rng, d, (d, self.width)))
        bias = self.param('bias', lambda rng: torch_linear(rng, d, (self.width,)))
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        return features @ kernel + bias


class Heads(nn.Module):
    """All classifiers of a network, side by side on the same features."""

    widths: Mapping[str, int]

    @nn.compact
    def __call__(self, features: Array) -> dict[str, Array]:
        return {name: Linear(width, name=name)(features) for name, width in self.widths.items()}


class Network(nn.Module):
    """A backbone and its heads; the backbone maps (image, train, tap) to (features, maps).

    A backbone with a field `dropout` has that share of its features left out in front of the heads.
    """

    backbone: nn.Module
    widths: Mapping[str, int]

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> Out:
        features, maps = self.backbone(tap('input', image), train=train, tap=tap)
        shown, rate = features, getattr(self.backbone, 'dropout', 0.0)
        if rate:
            shown = nn.Dropout(rate, deterministic=dropout_off(self, train), name='dropout')(features)
        return Out(Heads(self.widths, name='heads')(shown), features, maps)


def group(path: tuple[str, ...]) -> str:
    """Return the part of a parameter: `stage1` for `('backbone', 'stage1', ..)`, `head:a` for `('heads', 'a', ..)`."""
    return f'head:{path[1]}' if path[0] == 'heads' else path[1]


def depths(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """Return the depth of each parameter by the names of its modules: 0 for the first layer, the most for the heads.

    The layers are `stem`, the blocks `stage1/block0`, `stage1/block1` .., `stage2/block0` .. in the order of their
    numbers, and the heads together with `final`, as in timm. A name in a stage that has no number belongs to the
    stage's first block, a stage without numbers is one layer, and so is a numbered part that is no stage (`block7`).

    Args:
      paths: the keys of every parameter of the network.
    """
    places = {path: _place(path) for path in paths}
    first: dict[int, int] = {}
    for stage, block in (place for place in places.values() if isinstance(place, tuple)):
        if block is not None:
            first[stage] = min(block, first.get(stage, block))
    blocks = {
        path: (place[0], first.get(place[0], 0) if place[1] is None else place[1])
        for path, place in places.items()
        if isinstance(place, tuple)
    }
    order = {place: i for i, place in enumerate(sorted(set(blocks.values())))}
    named = {'final': len(order), 'heads': len(order)}
    return {path: order[blocks[path]] if path in blocks else named[str(place)] for path, place in places.items()}


def _place(path: tuple[str, ...]) -> tuple[int, int | None] | str:
    """Return (number of the stage, number of the block or None) of a parameter, or `heads` or `final`."""
    if path[0] == 'heads':
        return 'heads'
    part, *inside = (str(name) for name in path[1:])
    if part in ('stem', 'final'):
        return (-1, None) if part == 'stem' else part
    number = re.search(r'\d+$', part)
    if number is None:
        raise UserError(
            f"nothing in the name of the network's part {part!r} says how deep it is; name the parts of the backbone "
            'stem, stage1, stage2 .. and final'
        )
    if not part.startswith('stage') or not inside:
        return int(number[0]), None
    name = inside[1] if len(inside) > 1 and inside[1].isdigit() else inside[0]  # of a list `blocks`, or `block0`
    block = re.search(r'\d+$', name)
    return int(number[0]), None if block is None else int(block[0])


def redraw(rng: Array, params: Tree, head: str, law: str = '') -> Tree:
    """Return `params` with the head redrawn by the initializer that `init` uses (`models.initializers`).

    Args:
      rng: key of the draw.
      params: parameters of the network.
      head: name of the head.
      law: name of the initializer; '' for torch's default.
    """
    old = params['heads'][head]
    fan_in = old['kernel'].shape[0]
    keys = jax.random.split(rng)
    new = {
        'kernel': torch_linear(keys[0], fan_in, old['kernel'].shape, old['kernel'].dtype),
        'bias': torch_linear(keys[1], fan_in, old['bias'].shape, old['bias'].dtype),
    }
    new = initializers.draw(law, rng, {'heads': {head: new}})['heads'][head]
    return {**params, 'heads': {**params['heads'], head: new}}


def from_linen(backbone: nn.Module, law: str = '') -> Net:
    """Wrap a linen backbone, with children named `stem`, `stage1` .. and perhaps `final`, in a `Net`.

    Args:
      backbone: the linen module.
      law: the initializer (`models.initializers`); '' keeps that of each layer.
    """

    def module(widths: Mapping[str, int]) -> Network:
        return Network(backbone=backbone, widths=dict(widths))

    def init(rng: Array, image: Array, heads: Mapping[str, int]) -> Tree:
        variables = module(heads).init(rng, image, train=False)
        return {**variables, 'params': initializers.draw(law, rng, variables['params'])}

    def apply(
        variables: Tree, image: Array, *, train: bool, tap: Tap = no_tap, rng: Array | None = None
    ) -> tuple[Out, Tree]:
        heads = {name: head['bias'].shape[-1] for name, head in variables['params'].get('heads', {}).items()}
        rngs = None if rng is None else {'dropout': rng}
        state = {name: tree for name, tree in variables.items() if name != 'params'}
        if train:
            both: Any = module(heads).apply(variables, image, train=True, tap=tap, rngs=rngs, mutable=list(state))
            return both
        out: Any = module(heads).apply(variables, image, train=False, tap=tap)
        return out, state

    return Net(init=init, apply=apply, group=group, redraw=partial(redraw, law=law))
