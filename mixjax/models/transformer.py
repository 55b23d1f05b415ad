"""The layers that vision transformers share: attention, MLPs, LayerNorm, LayerScale, stages of blocks, positions.

A block is h -> h + s1 * attention(norm(h)), then h -> h + s2 * mlp(norm(h)), on sequences (B, N, D) whose first
tokens, the prefix, belong to no patch (class token, registers). s1 and s2 are LayerScale, where there is one.

`dtype` is as in layers.py. Every LayerNorm, softmax, activation, bias and LayerScale is computed in float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mixjax.errors import UserError
from mixjax.models.layers import Dense, LayerNorm, Mark, drop_rates, mean_dtype, small_normal, unmarked
from mixjax.models.net import Tap, dropout_off

Array = jax.Array
Grid = tuple[int, int]
Rotation = tuple[np.ndarray, np.ndarray]  # sine and cosine of each patch's angles, (N, head_dim / 2) each


def quick_gelu(x: Array) -> Array:
    """Return x sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    'gelu': partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': partial(jax.nn.gelu, approximate=True),
    'quick_gelu': quick_gelu,
    'silu': jax.nn.silu,
}


class Form(NamedTuple):
    """The shape of a transformer's blocks.

    width: channels of a token. heads: heads of the attention.
    hidden: channels inside the MLP (of a gated one, after the gate).
    activation: one of `ACTIVATIONS`.
    gate: '' for fc2(act(fc1(h))). A gated MLP is fc2(act(g) x), where g and x are the halves of one layer `fc1`
        ('packed') or layers `fc1_g` and `fc1_x` ('split').
    eps: of LayerNorm.
    scale: initial value of LayerScale, 0 for none.
    bias: 'qkv' for a bias of query, key and value in one vector, 'q, v' for two vectors and none of the key, or ''.
    """

    width: int
    heads: int
    hidden: int
    activation: str = 'gelu'
    gate: str = ''
    eps: float = 1e-6
    scale: float = 0.0
    bias: str = 'qkv'


# --- layers -----------------------------------------------------------------------------------------------------------


class LayerScale(nn.Module):
    """A factor for each channel: (.., C) -> (.., C), float32 or wider."""

    initial: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param('gamma', nn.initializers.constant(self.initial), x.shape[-1:], jnp.float32)
        return x.astype(mean_dtype(x, gamma)) * gamma


def dense(width: int, name: str, dtype: Any, bias: bool = True) -> Dense:
    """Make a linear layer with the published initialiser: N(0, 0.02^2), bias 0."""
    return Dense(width, use_bias=bias, kernel_init=small_normal, dtype=dtype, name=name)


class Mlp(nn.Module):
    """The MLP of a block: (.., C) -> (.., C). See `Form` for its kinds."""

    form: Form
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        hidden, gate = self.form.hidden, self.form.gate
        act, layer = ACTIVATIONS[self.form.activation], partial(dense, dtype=self.dtype)
        width = h.shape[-1]
        if gate == 'packed':
            g, x = jnp.split(layer(2 * hidden, 'fc1')(h), 2, axis=-1)
        elif gate == 'split':
            g, x = layer(hidden, 'fc1_g')(h), layer(hidden, 'fc1_x')(h)
        else:
            g, x = layer(hidden, 'fc1')(h), None
        inside = act(g.astype(mean_dtype(g)))
        if x is not None:
            inside = inside * x.astype(mean_dtype(x))
        return layer(width, 'fc2')(inside.astype(g.dtype))


# --- attention --------------------------------------------------------------------------------------------------------


@cache
def _largest_head() -> int:
    """Return the largest head of cuDNN's attention on this machine's GPU, 0 where there is none."""
    device = jax.local_devices()[0]
    if device.platform != 'gpu' or 'cuda' not in device.client.platform_version:
        return 0
    capability = float(device.compute_capability)
    return 256 if capability >= 9 else 128 if capability >= 8 else 0


def implementation(dtype: Any, head: int) -> str:
    """Return how `jax.nn.dot_product_attention` is to compute: 'cudnn' where it can, 'xla' elsewhere.

    Args:
      dtype: type of query, key and value.
      head: channels of a head.
    """
    narrow = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    return 'cudnn' if narrow and head % 8 == 0 and head <= _largest_head() else 'xla'


def attend(q: Array, k: Array, v: Array) -> Array:
    """Return softmax(q k^T / sqrt(d)) v for each head; the softmax is float32 or wider.

    Args:
      q: (B, N, heads, d).
      k: (B, M, heads, d).
      v: (B, M, heads, d).

    Returns:
      (B, N, heads, d), in the type of q.
    """
    if q.dtype == jnp.float64:  # jax's function rounds the scores to float32
        scores = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k)
        return jnp.einsum('bhnm,bmhd->bnhd', jax.nn.softmax(scores, axis=-1), v)
    how: Any = implementation(q.dtype, q.shape[-1])
    return jax.nn.dot_product_attention(q, k, v, implementation=how)


def rotate(x: Array, rotation: Rotation) -> Array:
    """Turn the channels (i, i + d/2) of each patch by its angle i: (B, N, heads, d) -> the same shape.

    Args:
      x: query or key.
      rotation: (sine, cosine), (patches, d/2) each. The tokens in front of the patches are not turned.
    """
    sin, cos = (jnp.asarray(part, mean_dtype(x))[:, None] for part in rotation)
    before = x.shape[1] - sin.shape[0]
    a, b = jnp.split(x[:, before:].astype(sin.dtype), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([x[:, :before], turned.astype(x.dtype)], axis=1)


class Attention(nn.Module):
    """Self-attention of all tokens: (B, N, D) -> (B, N, D)."""

    form: Form
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, rotation: Rotation | None) -> Array:
        batch, n, width = h.shape
        heads, bias = self.form.heads, self.form.bias
        qkv = dense(3 * width, 'qkv', self.dtype, bias == 'qkv')(h)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, n, 3, heads, width // heads), 2, 0)
        if bias == 'q, v':
            q, v = self._shifted(q, 'q_bias'), self._shifted(v, 'v_bias')
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return dense(width, 'proj', self.dtype)(attend(q, k, v).reshape(batch, n, width))

    def _shifted(self, x: Array, name: str) -> Array:
        bias = self.param(name, nn.initializers.zeros, (x.shape[-2] * x.shape[-1],), jnp.float32)
        y = x.astype(mean_dtype(x, bias)) + bias.reshape(x.shape[-2:])
        return y.astype(x.dtype if self.dtype else y.dtype)


class MapPool(nn.Module):
    """Attention of one learned query to all tokens, and an MLP: (B, N, D) -> (B, D), float32 or wider."""

    form: Form
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        batch, n, width = h.shape
        latent = self.param('latent', nn.initializers.truncated_normal(width**-0.5), (1, 1, width), jnp.float32)
        shape = (self.form.heads, width // self.form.heads)
        q = dense(width, 'q', self.dtype)(latent)
        # The gradient of what all examples share is a sum over the batch.
        q = jnp.broadcast_to(q.astype(mean_dtype(q)), (batch, 1, width)).astype(q.dtype)
        k, v = jnp.moveaxis(dense(2 * width, 'kv', self.dtype)(h).reshape(batch, n, 2, *shape), 2, 0)
        x = attend(q.reshape(batch, 1, *shape), k, v).reshape(batch, width)
        x = dense(width, 'proj', self.dtype)(x)
        y = LayerNorm(self.form.eps, self.dtype, name='norm')(x)
        y = Mlp(self.form._replace(gate=''), self.dtype, name='mlp')(y)
        return x.astype(mean_dtype(x)) + y


# --- blocks and stages ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """The block of the module's docstring: (B, N, D) -> (the same shape, output of the MLP).

    drop: the rate at which stochastic depth leaves out a branch of an example.
    remat: whether the backward pass computes the branches again instead of keeping them in memory.
    """

    form: Form
    drop: float = 0.0
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark, rotation: Rotation | None) -> tuple[Array, Array]:
        def inside(block: Block, h: Array) -> tuple[Array, Array]:
            norm = partial(LayerNorm, block.form.eps, block.dtype)
            y = Attention(block.form, block.dtype, name='attn')(norm(name='norm1')(h), rotation)
            h = block._added(h, y, 1, train)
            return h, Mlp(block.form, block.dtype, name='mlp')(norm(name='norm2')(h))

        # The mark is outside: it may do anything with what it is given, also keep it.
        h, last = nn.remat(inside)(self, h) if self.remat and train else inside(self, h)
        last = mark(last)
        return self._added(h, last, 2, train), last

    def _added(self, h: Array, y: Array, number: int, train: bool) -> Array:
        """Return h plus the branch y, after LayerScale and stochastic depth."""
        if self.form.scale:
            y = LayerScale(self.form.scale, name=f'ls{number}')(y)
        if self.drop:
            off = dropout_off(self, train)
            y = nn.Dropout(self.drop, broadcast_dims=(1, 2), deterministic=off, name=f'drop{number}')(y)
        return (h.astype(mean_dtype(h, y)) + y).astype(self.dtype or jnp.result_type(h, y))


class Blocks(nn.Module):
    """A stage, one block for each rate in `drops`: (B, N, D) -> (the same shape, output of the last block's MLP)."""

    form: Form
    drops: tuple[float, ...]
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap, rotation: Rotation | None) -> tuple[Array, Array]:
        last = h
        for i, drop in enumerate(self.drops):
            mark = partial(tap, f'{self.name}.conv') if i == len(self.drops) - 1 else unmarked
            block = Block(self.form, drop, self.remat, self.dtype, name=f'block{i}')
            h, last = block(h, train, mark, rotation)
        return h, last


def counts(depth: int) -> tuple[int, ...]:
    """Return the number of blocks of `stage1` to `stage4`, as equal as possible."""
    return tuple(depth // 4 + (i < depth % 4) for i in range(4))


def stages(form: Form, depth: int, drop_path: float, remat: bool, dtype: Any) -> list[Blocks]:
    """Make `stage1` to `stage4`.

    Args:
      form: the shape of a block.
      depth: number of blocks.
      drop_path: rate of stochastic depth at the last block; it grows linearly from 0.
      remat: see `Block`.
      dtype: see the module's docstring.
    """
    return [
        Blocks(form, rates, remat, dtype, name=f'stage{i + 1}')
        for i, rates in enumerate(drop_rates(drop_path, counts(depth)))
    ]


def as_map(h: Array, grid: Grid) -> Array:
    """Return the patches of a sequence as a map: (B, prefix + h w, D) -> (B, h, w, D)."""
    rows, columns = grid
    return h[:, h.shape[1] - rows * columns :].reshape(h.shape[0], rows, columns, h.shape[-1])


def walk(
    h: Array, parts: Sequence[Blocks], grid: Grid, *, train: bool, tap: Tap, rotation: Rotation | None = None
) -> tuple[Array, dict[str, Array]]:
    """Apply all stages to the stem's output, and return (last sequence, maps); as `layers.walk`, for sequences.

    Args:
      h: (B, N, D), the stem's output.
      parts: the stages.
      grid: rows and columns of patches.
      train: whether stochastic depth may be on.
      tap: reads or replaces the whole sequence, prefix included.
      rotation: see `rotate`.
    """
    maps: dict[str, Array] = {}
    h = tap('stem', h)
    for stage in parts:
        name = str(stage.name)
        h, last = stage(h, train, tap, rotation)
        h = tap(name, h)
        maps[f'{name}.conv'], maps[name] = as_map(last, grid), as_map(h, grid)
    return h, maps


class Final(nn.Module):
    """The last LayerNorm, and the pooling: (B, prefix + h w, D) -> (features (B, D), map (B, h, w, D)).

    pool: 'token' for the first token, 'mean' of the patches, or 'map' for `MapPool`.
    """

    form: Form
    pool: str
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, grid: Grid) -> tuple[Array, Array]:
        h = LayerNorm(self.form.eps, name='norm')(h)
        last = as_map(h, grid)
        if self.pool == 'map':
            features = MapPool(self.form, self.dtype, name='pool')(h)
        else:
            features = h[:, 0] if self.pool == 'token' else jnp.mean(last, (1, 2))
        return features, last.astype(self.dtype or last.dtype)


# --- patches and positions --------------------------------------------------------------------------------------------


def grid_of(image: Array, patch: int, spare: int = 0) -> Grid:
    """Return rows and columns of patches of an image (B, H, W, C); refuse what is no whole number of them.

    Args:
      image: the image.
      patch: side of a patch.
      spare: the rest that may also be left over at the end of a side, which the network does not see: one network
          was published for images of 384 = 27 * 14 + 6 pixels.
    """
    for side in image.shape[1:3]:
        if side < patch or side % patch not in (0, spare):
            below = side // patch * patch
            near = f'{below} or {below + patch}' if below else f'{patch}'
            raise UserError(
                f'images of {image.shape[1]}x{image.shape[2]} pixels cannot be cut into patches of {patch}x{patch}: '
                f'make the side {side} a multiple of {patch}, for example {near} (config.image.crop)'
            )
    return image.shape[1] // patch, image.shape[2] // patch


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel with a = -1/2, which is 0 outside of (-2, 2)."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@cache
def resize_matrix(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix of a bicubic resize, smoothed where it shrinks, as Pillow and torch do it."""
    step = old / new
    stretch = max(step, 1.0)
    centres = (np.arange(new) + 0.5) * step
    first = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)[:, None]
    end = np.minimum((centres + 2 * stretch + 0.5).astype(int), old)[:, None]
    here = np.arange(old)
    weights = _cubic((here + 0.5 - centres[:, None]) / stretch) * ((first <= here) & (here < end))
    return weights / weights.sum(1, keepdims=True)


def resized(positions: Array, old: Grid, new: Grid) -> Array:
    """Resize an embedding of positions, in float32 or wider: (1, old rows x columns, D) -> (1, new ones, D).

    Args:
      positions: the embedding, of patches only.
      old: the grid that it is for.
      new: the grid that it shall be for; the same one costs nothing.
    """
    if old == new:
        return positions
    dtype = mean_dtype(positions)
    rows, columns = (jnp.asarray(resize_matrix(a, b), dtype) for a, b in zip(old, new, strict=True))
    grid = positions.astype(dtype).reshape(*old, -1)
    exact = jax.lax.Precision.HIGHEST
    grid = jnp.einsum('ai,ijd->ajd', rows, grid, precision=exact)
    grid = jnp.einsum('bj,ajd->abd', columns, grid, precision=exact)
    return grid.reshape(1, math.prod(new), -1)


def with_prefix(patches: Array, *tokens: Array) -> Array:
    """Put learned tokens (1, n, D) in front of the patches (B, N, D), float32 or wider."""
    wide = mean_dtype(patches, *tokens)
    batch, _, width = patches.shape
    # The gradient of what all examples share is a sum over the batch.
    shared = [jnp.broadcast_to(token.astype(wide), (batch, token.shape[1], width)) for token in tokens]
    return jnp.concatenate([*shared, patches.astype(wide)], axis=1)
