"""Depthwise convolution: every channel with a kernel of its own.

    y[b, p, q, c] = sum_ij x[b, p s + i, q s + j, c] k[i, j, 0, c]

XLA has no fast path for it on CPUs: there, the convolution is 5 to 40 times slower than the sum over i and j of shifted
products, and its gradients more so. So on a CPU it is that sum, and elsewhere it is XLA's convolution; which one is
decided where the program is compiled for, not where it is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]
NUMBERS = ('NHWC', 'HWIO', 'NHWC')
UNROLLED = 3  # rows of a kernel up to which the sum has no loop, which is quicker, and longer to compile


def general(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, lhs_dilation: Any = None,
    rhs_dilation: Any = None, dimension_numbers: Any = None, feature_group_count: int = 1, **options: Any,
) -> Array:  # fmt: skip
    """`lax.conv_general_dilated` for flax's `Conv`, which is depthwise where it can be.

    Args:
      x: (B, h, w, C).
      kernel: (s, t, 1, C) for a depthwise convolution.
      strides, padding: of both spatial axes.
      lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, options: see `lax.conv_general_dilated`.
    """
    plain = all(step == 1 for one in (lhs_dilation, rhs_dilation) for step in one or ())
    depthwise = kernel.ndim == 4 and kernel.shape[2:] == (1, x.shape[-1]) and feature_group_count == x.shape[-1]
    if plain and depthwise:
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        (top, bottom), (left, right) = ((int(a), int(b)) for a, b in padding)
        return convolve(x, kernel, tuple(strides), ((top, bottom), (left, right)))
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers, feature_group_count=feature_group_count, **options,
    )  # fmt: skip


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Return the depthwise convolution of x (B, h, w, C) with a kernel (s, t, 1, C): (B, h', w', C).

    Example:
      >>> import jax.numpy as jnp
      >>> image, box = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
      >>> convolve(image, box, (1, 1), ((1, 1), (1, 1)))[0, :, :, 0].tolist()[0]
      [4.0, 6.0, 6.0, 4.0]
    """
    return lax.platform_dependent(
        x, kernel, cpu=partial(_shifted, strides=strides, pads=pads), default=partial(_xla, strides=strides, pads=pads)
    )


def _forward(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, kept: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:  # fmt: skip
    def of_xla(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_xla, strides=strides, pads=pads), x, kernel)[1](g)

    def of_shifts(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return _to_image(x, kernel, g, strides, pads), _to_kernel(x, kernel, g, strides, pads)

    return lax.platform_dependent(*kept, g, cpu=of_shifts, default=of_xla)


convolve.defvjp(_forward, _backward)


def _xla(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=NUMBERS, feature_group_count=x.shape[-1]
    )


# --- by shifts --------------------------------------------------------------------------------------------------------


def _wide(*arrays: Array) -> list[Array]:
    """Return arrays in the type in which products are summed: float32 for half precision."""
    return [array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays]


def _padded(x: Array, pads: Sequence[tuple[int, int]], dilation: tuple[int, int] = (1, 1)) -> Array:
    """Return x with zeros around both spatial axes, and between its rows and columns; negative pads cut."""
    inner = [(low, high, step - 1) for (low, high), step in zip(pads, dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _sum_of_shifts(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Return the convolution without padding."""
    (n, high, wide, c), (down, right) = x.shape, strides
    rows, columns = (high - kernel.shape[0]) // down + 1, (wide - kernel.shape[1]) // right + 1

    def of_row(seen: Array, taps: Array) -> Array:
        """Return the sum over a row of the kernel (t, C), of the rows of the image that it meets."""
        last = (columns - 1) * right + 1
        return sum(seen[:, :, j : j + last : right] * taps[j] for j in range(len(taps)))  # type: ignore[return-value]

    if len(kernel) <= UNROLLED:
        last = (rows - 1) * down + 1
        return sum(of_row(x[:, i : i + last : down], taps[:, 0]) for i, taps in enumerate(kernel))  # type: ignore

    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        at, taps = one
        seen = lax.dynamic_slice_in_dim(x, at, (rows - 1) * down + 1, 1)[:, ::down]
        return total + of_row(seen, taps), None

    none = jnp.zeros((n, rows, columns, c), x.dtype)
    return lax.scan(add, none, (jnp.arange(len(kernel)), kernel[:, :, 0]))[0]


def _shifted(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    wide, taps = _wide(x, kernel)
    return _sum_of_shifts(_padded(wide, pads), taps, strides).astype(x.dtype)


def _to_image(x: Array, kernel: Array, g: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Return the gradient of x: that of y, with zeros between its places, convolved with the flipped kernel."""
    wide, taps = _wide(g, kernel)
    around = []
    for size, length, tap, step, (low, _) in zip(
        x.shape[1:3], g.shape[1:3], kernel.shape[:2], strides, pads, strict=True
    ):
        around.append((tap - 1 - low, size + low - (length - 1) * step - 1))
    return _sum_of_shifts(_padded(wide, around, strides), taps[::-1, ::-1], (1, 1)).astype(x.dtype)


def _to_kernel(x: Array, kernel: Array, g: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Return the gradient of the kernel: for each of its places a sum over images and map.

    Row by row, because sums along the long axes of an array are slow on CPUs, and sums of arrays are not.
    """
    x, g = _wide(x, g)
    x, (down, right) = _padded(x, pads), strides
    n, rows, columns, c = g.shape
    last = (columns - 1) * right + 1

    def of_row(i: Array) -> Array:
        """Return the gradient of a row of the kernel, (t, C)."""

        def add(sums: tuple[Array, ...], at: Array) -> tuple[tuple[Array, ...], None]:
            mine = lax.dynamic_index_in_dim(g, at, 1, keepdims=False)
            seen = lax.dynamic_index_in_dim(x, at * down + i, 1, keepdims=False)
            return tuple(total + seen[:, j : j + last : right] * mine for j, total in enumerate(sums)), None

        none = (jnp.zeros((n, columns, c), g.dtype),) * kernel.shape[1]
        sums, _ = lax.scan(add, none, jnp.arange(rows))
        return jnp.stack([total.sum((0, 1)) for total in sums])

    return lax.map(of_row, jnp.arange(len(kernel)))[:, :, None].astype(kernel.dtype)
