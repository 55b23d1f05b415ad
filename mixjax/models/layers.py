"""The layers that the networks share: convolution, batch and layer normalisation, a stage of blocks.

Everything is NHWC with HWIO kernels and pads as torch does: the same number of zeros on both sides,
also where the stride is 2 (XLA's 'SAME' would pad the end only).

The meaning of `dtype`, a field of every layer: None computes in the promoted type of input and
parameters, so float64 variables give a float64 network; bfloat16 computes the convolutions in it and
stores their results in it. Parameters, running statistics, every mean and every sum over a map, of the
gradients too, are float32 or wider: a sum of ones in bfloat16 ends at 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from mixjax.errors import UserError
from mixjax.models import depthwise
from mixjax.models.net import Net, Out, Tap

Array = jax.Array
Tree = Any
Initializer = Callable[..., Array]
Mark = Callable[[Array], Array]  # reads the output of a block's last convolution, or replaces it


def torch_conv(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw by torch's default for a convolution: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), fan_in = kh kw C_in."""
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(rng, shape, dtype, -bound, bound)


def kaiming_out(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw as torchvision's ResNets do: N(0, 2/fan_out), fan_out = kh kw C_out; not truncated."""
    kh, kw, _, width = shape
    return jax.random.normal(rng, shape, dtype) * (2 / (kh * kw * width)) ** 0.5


def kaiming_in(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw as torchvision's DenseNets do: N(0, 2/fan_in), fan_in = kh kw C_in; not truncated."""
    return jax.random.normal(rng, shape, dtype) * (2 / math.prod(shape[:-1])) ** 0.5


def small_normal(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw from N(0, 0.02^2); where it is published as truncated, torch cuts it off at +-2, which no draw reaches."""
    return 0.02 * jax.random.normal(rng, shape, dtype)


def torch_bias(fan_in: int) -> Initializer:
    """Return torch's default for a layer's bias: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), with the kernel's fan_in."""

    def draw(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return draw


def wide_bias(inputs: Array, kernel: Array, bias: Array | None, *, dtype: Any) -> tuple[Array, Array, Array | None]:
    """Cast inputs and kernel to the computation's type, as flax does, but keep a wider type of the bias.

    The gradient of a bias is a sum over batch and map, in the type in which the bias is added.
    """
    inputs, kernel, narrow = promote_dtype(inputs, kernel, bias, dtype=dtype)
    return inputs, kernel, narrow if dtype is None else bias


class Conv(nn.Conv):
    """flax's convolution with the bias added in float32 or wider, and the sum stored in `dtype`."""

    promote_dtype: Any = wide_bias

    def __call__(self, inputs: Array) -> Array:
        y = super().__call__(inputs)
        return y if self.dtype is None else y.astype(self.dtype)


class Dense(nn.Dense):
    """flax's linear layer with the bias added in float32 or wider, and the sum stored in `dtype`."""

    promote_dtype: Any = wide_bias

    def __call__(self, inputs: Array) -> Array:
        y = super().__call__(inputs)
        return y if self.dtype is None else y.astype(self.dtype)


def conv(
    width: int, size: int, stride: int = 1, *, padding: Any = None, bias: Initializer | None = None,
    init: Initializer = kaiming_out, **options: Any,
) -> Conv:  # fmt: skip
    """Make a convolution: (B, h, w, C) -> (B, h', w', width).

    Args:
      padding: as flax takes it; None puts size // 2 zeros on every side.
      bias: the initialiser of a bias; None for no bias. init: the initialiser of the kernel.
      options: of flax's `Conv`, such as `name` and `dtype`; with `feature_group_count` C it is a depthwise convolution,
        whose kernel is (size, size, 1, C).
    """
    pad = size // 2
    return Conv(
        width,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)) if padding is None else padding,
        use_bias=bias is not None,
        kernel_init=init,
        bias_init=nn.initializers.zeros if bias is None else bias,
        conv_general_dilated=depthwise.general if options.get('feature_group_count', 1) == width > 1 else None,
        **options,
    )


def mean_dtype(*arrays: Array) -> Any:
    """Return the type in which means are taken: the type of the arrays, but at least float32."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def global_mean(h: Array) -> Array:
    """Return the global average pooling of a map: (B, h, w, C) -> (B, C), float32 or wider."""
    return jnp.mean(h, axis=(1, 2), dtype=mean_dtype(h))


class BatchNorm(nn.Module):
    """Batch normalisation with torch's running statistics: (.., C) -> (.., C).

    y = (x - mean) / sqrt(var + eps) * scale + bias, where in train mode mean and var are those of the
    batch: var = E[x^2] - E[x]^2, from one pass over x. The running statistics move by 1 - momentum
    towards the batch's mean and its *unbiased* variance n/(n-1) var, as in torch (flax's own layer
    takes the biased one).
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        shape = x.shape[-1:]
        mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
        scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
        h = x.astype(mean_dtype(x, scale))
        mu, sigma2 = mean.value, var.value
        if train:
            n = x.size // x.shape[-1]
            if n < 2:
                raise UserError('batch statistics need more than one value per channel: use a larger batch or image')
            axes = tuple(range(x.ndim - 1))
            mu = jnp.mean(h, axes)
            # Rounding can make the difference of two large means negative.
            sigma2 = jnp.maximum(jnp.mean(h * h, axes) - mu * mu, 0.0)
            if not self.is_initializing():
                mean.value = self._move(mean.value, mu)
                var.value = self._move(var.value, sigma2 * (n / (n - 1)))
        y = (h - mu) * (jax.lax.rsqrt(sigma2 + self.eps) * scale) + bias
        return y.astype(self.dtype or jnp.result_type(x, scale))

    def _move(self, old: Array, new: Array) -> Array:
        """Return the running statistic after this batch, in its type: a loop must not change it."""
        return (self.momentum * old + (1 - self.momentum) * new).astype(old.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, each position by itself: (.., C) -> (.., C).

    y = (x - mean) / sqrt(var + eps) * scale + bias, where var is the mean of (x - mean)^2, taken in a second pass:
    E[x^2] - E[x]^2 loses its digits where the mean is large.
    """

    eps: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:], jnp.float32)
        h = x.astype(mean_dtype(x, scale))
        h = h - jnp.mean(h, -1, keepdims=True)
        y = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + self.eps) * scale + bias
        return y.astype(self.dtype or jnp.result_type(x, scale))


def fixed_statistics(net: Net) -> Net:
    """Return the network with BatchNorm on its running statistics in train mode too, which stay; dropout stays on.

    It is for networks of linen, with the BatchNorm of this module or flax's.
    """

    def fixed(call: Callable[..., Any], given: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == '__call__' and isinstance(context.module, BatchNorm):
            return call(given[0], False)
        if context.method_name == '__call__' and isinstance(context.module, nn.BatchNorm):
            # Given as a field or in the call, never both.
            object.__setattr__(context.module, 'use_running_average', None)
            return call(*given[:1], **{**named, 'use_running_average': True})
        return call(*given, **named)

    def apply(variables: Tree, *given: Any, **named: Any) -> tuple[Out, Tree]:
        with nn.intercept_methods(fixed):
            out, _ = net.apply(variables, *given, **named)
        return out, {name: tree for name, tree in variables.items() if name != 'params'}

    return net._replace(apply=apply)


class PlainStem(nn.Module):
    """A 3x3 convolution alone, with torch's `bias` or without: (B, H, W, C) -> (B, H/stride, W/stride, width)."""

    width: int
    kernel_init: Initializer = kaiming_out
    dtype: Any = None
    stride: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        del train
        bias = torch_bias(9 * image.shape[-1]) if self.bias else None
        layer = conv(
            self.width, 3, self.stride, bias=bias, init=self.kernel_init, dtype=self.dtype, name='conv'
        )  # fmt: skip
        return layer(image)


class Stem(nn.Module):
    """A 3x3 convolution, BN and ReLU, for small images: (B, H, W, C) -> (B, H, W, width)."""

    width: int
    kernel_init: Initializer = kaiming_out
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        h = conv(self.width, 3, init=self.kernel_init, dtype=self.dtype, name='conv')(image)
        return nn.relu(BatchNorm(dtype=self.dtype, name='bn')(h, train))


class PooledStem(nn.Module):
    """A 7x7 convolution with stride 2, BN, ReLU, and 3x3 max-pooling with stride 2.

    (B, H, W, C) -> (B, H/4, W/4, width)
    """

    width: int
    kernel_init: Initializer = kaiming_out
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        h = conv(self.width, 7, 2, init=self.kernel_init, dtype=self.dtype, name='conv')(image)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn')(h, train))
        pad: Any = ((1, 1), (1, 1))  # flax's annotation knows only names of paddings
        return nn.max_pool(h, (3, 3), strides=(2, 2), padding=pad)


class Final(nn.Module):
    """The BN and ReLU after the last stage of pre-activation networks: (B, h, w, C) -> the same shape."""

    momentum: float = 0.9
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool) -> Array:
        return nn.relu(BatchNorm(self.momentum, dtype=self.dtype, name='bn')(h, train))


class Stage(nn.Module):
    """`count` residual blocks, the first with the stride: map -> (map, output of the last convolution).

    A block is a module with a field `stride` that maps (h, train, mark) to (h, last), where `last` is the
    output of its last convolution, before normalisation and before the shortcut is added. It hands
    that output to `mark`: for the last block this is the tap `<stage>.conv`, by which DELTA's channels
    can be switched off. With `remat` the backward pass computes the inside of the blocks again.
    """

    block: Callable[..., nn.Module]
    count: int
    stride: int
    remat: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        last = h
        for i in range(self.count):
            mark = partial(tap, f'{self.name}.conv') if i == self.count - 1 else unmarked
            block = self.block(stride=self.stride if i == 0 else 1, name=f'block{i}')
            h, last = through(block, h, train=train, mark=mark, remat=self.remat)
        return h, last


def through(block: Any, h: Array, *, train: bool, mark: Mark, remat: bool) -> tuple[Array, Array]:
    """Return block(h, train, mark). Call inside the module that the block belongs to.

    Args:
      block: a module as `Stage` describes it.
      h: (B, h, w, C), the block's input.
      train: whether the network is in train mode.
      mark: the block's `mark`.
      remat: whether in train mode the backward pass computes the block's activations again, so that only its input is
        kept in memory.
    """
    if remat and train:
        # The lambda keeps `train` and `mark`, which are no arrays, out of the arguments.
        return nn.remat(lambda module, x: module(x, train, mark))(block, h)
    return block(h, train, mark)


def drop_rates(rate: float, counts: Sequence[int]) -> list[tuple[float, ...]]:
    """Return the blocks' rates of stochastic depth, a tuple for each stage: from 0 at the first to `rate` at the last.

    Args:
      rate: rate of the last block.
      counts: number of blocks of each stage.
    """
    steps = max(sum(counts) - 1, 1)
    first = [sum(counts[:stage]) for stage in range(len(counts))]
    return [tuple(rate * (start + i) / steps for i in range(n)) for start, n in zip(first, counts, strict=True)]


def unmarked(h: Array) -> Array:
    return h


def stages(
    block: Callable[..., nn.Module], counts: Sequence[int], width: int, dtype: Any, remat: bool = False
) -> list[Stage]:
    """Make `stage1` .. with `counts[i]` blocks of width `width` 2^i; all but the first halve the resolution.

    Args:
      block: the module of a block.
      counts: number of blocks of each stage.
      width: width of the first stage.
      dtype: see the module's docstring.
      remat: see `through`.
    """
    return [
        Stage(partial(block, width=width * 2**i, dtype=dtype), count, 1 if i == 0 else 2, remat, name=f'stage{i + 1}')
        for i, count in enumerate(counts)
    ]


def walk(h: Array, parts: Sequence[Any], *, train: bool, tap: Tap) -> tuple[Array, dict[str, Array]]:
    """Apply all stages to the stem's output, and return (last map, maps).

    Args:
      h: (B, h, w, C), the stem's output.
      parts: modules that map (h, train, tap) to (h, last), as `Stage` does, named `stage1` ..
      train: whether BN is in train mode.
      tap: reads or replaces hidden activations.

    Returns:
      The last map, and the maps `stage1` .. and `stage1.conv` .., the output of the last convolution
      of the stage's last block, both after their taps.
    """
    maps: dict[str, Array] = {}
    h = tap('stem', h)
    for stage in parts:
        name = str(stage.name)
        h, maps[f'{name}.conv'] = stage(h, train, tap)
        maps[name] = h = tap(name, h)
    return h, maps


def pooled(h: Array, maps: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return (features, maps) for `Network`, where `last` is the map that is pooled."""
    return global_mean(h), {**maps, 'last': h}


def run(h: Array, parts: Sequence[Any], *, train: bool, tap: Tap) -> tuple[Array, dict[str, Array]]:
    """Apply `walk` and `pooled`, for networks where nothing follows the last stage."""
    return pooled(*walk(h, parts, train=train, tap=tap))
