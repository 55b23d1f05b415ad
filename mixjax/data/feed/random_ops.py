"""Random operations on training images: those of `config.image.augment`, each image with draws of its own.

Every operation is a function (key, image, its numbers) of one image, (H, W, C) uint8 -> (H, W, C) uint8, mapped over
the batch; no image affects another. The random numbers have fixed types, so that a float64 run has the draws of a
float32 run.

RandAugment and TrivialAugment draw one of fourteen operations for each image. A `lax.switch` mapped over a batch would
compute all fourteen one after the other. Instead they are three stages that every image goes through, each of which
leaves an image alone unless its operation belongs there: sampling at transformed places (shear, translation, rotation),
blending with another image (brightness, colour, contrast, sharpness), and a table of values (posterize, solarize,
autocontrast, equalize).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixjax.data.feed import pixel_ops
from mixjax.data.feed.specification import Operation

Array = jax.Array

KINDS = (
    'identity', 'shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate', 'brightness', 'color', 'contrast',
    'sharpness', 'posterize', 'solarize', 'autocontrast', 'equalize',
)  # fmt: skip
LEVELS = 30  # the largest magnitude
ATTEMPTS = 10  # rectangles that are drawn at most for one that fits
RECTANGLE = 2 * ATTEMPTS + 2  # draws of a rectangle: areas, ratios and a place
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
CROP_RATIO = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)


class Space(NamedTuple):
    """The strengths of the operations at magnitude 30; each grows linearly from nothing at 0.

    shear: the tangent of the angle. translate: pixels. rotate: degrees. factor: of a blend, above or below 1.
    bits: that posterize removes.
    """

    shear: float
    translate: float
    rotate: float
    factor: float
    bits: float


WIDE = Space(shear=0.99, translate=32, rotate=135, factor=0.99, bits=6)


def narrow(side: int) -> Space:
    """Return the space of RandAugment for images of a side."""
    return Space(shear=0.3, translate=150 / 331 * side, rotate=30, factor=0.9, bits=4)


# --- over a batch -----------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=2, inline=True)
def apply(key: Array, image: Array, operations: tuple[Operation, ...]) -> Array:
    """Apply operations to each image of a batch, one after the other: (B, H, W, C) uint8 -> the same."""

    def one(key: Array, image: Array) -> Array:
        for place, operation in enumerate(operations):
            image = OPERATIONS[operation.name](jax.random.fold_in(key, place), image, *operation.numbers)
        return image

    return jax.vmap(one)(_keys(key, len(image)), image)


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def resized_crops(key: Array, image: Array, scale: tuple[float, float], side: int) -> Array:
    """Cut a random rectangle out of each image and resize it: (B, H, W, C) uint8 -> (B, side, side, C) uint8.

    Its area is uniform between two shares of the image's, the logarithm of its height / height is uniform between those
    of 3/4 and 4/3, and its place is uniform. If none of ten draws fits into the image, the largest central rectangle of
    a ratio in this range is taken; of a square image, all of it.

    Args:
      key: a jax key.
      image: (B, H, W, C) uint8.
      scale: the least and the largest share.
      side: of the result.
    """
    height, width = image.shape[1:3]
    largest = min(height, round(width / CROP_RATIO[0])), min(width, round(height * CROP_RATIO[1]))
    central = [(whole - part) // 2 for whole, part in zip((height, width), largest, strict=True)]

    def one(key: Array, image: Array) -> Array:
        start, size, fits = _rectangle(_uniform(key, RECTANGLE), (height, width), scale, CROP_RATIO)
        start = jnp.where(fits, start, jnp.asarray(central, jnp.int32))
        size = jnp.where(fits, size, jnp.asarray(largest, jnp.int32))
        return pixel_ops.resample(image, start, size, side)

    return jax.vmap(one)(_keys(key, len(image)), image)


def _keys(key: Array, many: int) -> Array:
    """Return a key for each image, which does not depend on how many there are."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(many, dtype=jnp.uint32))


# --- of one image -----------------------------------------------------------------------------------------------------


def randaugment(key: Array, image: Array, n: float, magnitude: float) -> Array:
    """Apply n operations, drawn with replacement, at one magnitude (Cubuk et al., 2020), as torchvision does."""
    for drawn in _uniform(key, int(n), 2):
        kind, sign = _which(drawn[0], len(KINDS)), _sign(drawn[1])
        image = operate(image, kind, jnp.float32(magnitude), sign, narrow(image.shape[1]))
    return image


def trivialaugment(key: Array, image: Array) -> Array:
    """Apply one operation at a random magnitude of the wide space (Müller and Hutter, 2021), as torchvision does."""
    drawn = _uniform(key, 3)
    level = _which(drawn[2], LEVELS + 1).astype(jnp.float32)
    return operate(image, _which(drawn[0], len(KINDS)), level, _sign(drawn[1]), WIDE)


def operate(image: Array, kind: Array, level: Array, sign: Array, space: Space) -> Array:
    """Apply one of the fourteen operations to an image.

    Args:
      image: (H, W, C) uint8.
      kind: () int32, its place in `KINDS`.
      level: () float32, the magnitude from 0 to 30.
      sign: () float32, 1 or -1, the direction of operations that have two.
      space: the strengths at magnitude 30.
    """
    share = level / LEVELS

    def amount(name: str, most: float) -> Array:
        return jnp.where(kind == KINDS.index(name), sign * share * jnp.float32(most), jnp.float32(0))

    # Barriers between the stages: fused into one loop, the later ones would compute the earlier ones several times.
    moved = jax.lax.optimization_barrier(pixel_ops.affine(image, *_places(image.shape, amount, space)))

    blends = 'brightness', 'color', 'contrast', 'sharpness'
    factor = jnp.float32(1) + jnp.asarray(sum(amount(name, space.factor) for name in blends))
    grey = pixel_ops.grey(image)
    bases = [jnp.zeros_like(image), grey, jnp.full_like(image, pixel_ops.mean(grey)), pixel_ops.smooth(image)]
    base = moved
    for place, other in enumerate(bases, KINDS.index(blends[0])):
        base = jnp.where(kind == place, other, base)
    blended = jax.lax.optimization_barrier(pixel_ops.blend(base, moved, factor))

    counts = pixel_ops.histogram(image)
    same = jnp.broadcast_to(jnp.arange(256, dtype=jnp.int32), counts.shape)
    tables = [
        jnp.broadcast_to(pixel_ops.posterize_table(8 - jnp.round(share * jnp.float32(space.bits))), counts.shape),
        # Half levels are exact, thirtieths are not.
        jnp.broadcast_to(pixel_ops.solarize_table(255 - level * jnp.float32(255 / LEVELS)), counts.shape),
        jax.vmap(pixel_ops.autocontrast_table)(counts),
        jax.vmap(pixel_ops.equalize_table)(counts),
    ]
    table = same
    for place, other in enumerate(tables, KINDS.index('posterize')):
        table = jnp.where(kind == place, other, table)
    return pixel_ops.look_up(blended, jax.lax.optimization_barrier(table.astype(jnp.uint8)))


def _places(
    shape: tuple[int, ...], amount: Callable[[str, float], Array], space: Space
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Return `across` and `down` of `pixel_ops.affine`: shear from the corner, rotation about the centre, translation.

    Pixels are at their centres, half a pixel from the edges.
    """
    height, width = shape[:2]
    fixed = pixel_ops.fixed
    angle = -amount('rotate', math.radians(space.rotate))
    cos, sin = fixed(jnp.cos(angle)), fixed(jnp.sin(angle))
    shear_x, shear_y = fixed(amount('shear_x', space.shear)), fixed(amount('shear_y', space.shear))
    shift_x, shift_y = (fixed(jnp.trunc(amount(name, space.translate))) for name in ('translate_x', 'translate_y'))
    first_x = (width * 65536 - cos * (width - 1) - sin * (height - 1)) >> 1
    first_y = (height * 65536 + sin * (width - 1) - cos * (height - 1)) >> 1
    across = cos, sin + shear_x, first_x + (shear_x >> 1) - shift_x
    return across, (shear_y - sin, cos, first_y + (shear_y >> 1) - shift_y)


def jitter(key: Array, image: Array, brightness: float, contrast: float, saturation: float, hue: float) -> Array:
    """Change brightness, contrast, saturation and hue, in this order.

    The first three blend with black, with the mean grey and with the grey image, by factors that are uniform from
    max(0, 1 - strength) to 1 + strength; hue turns by a share of the circle that is uniform from -hue to hue.
    """
    drawn = _uniform(key, 4)
    if brightness:
        factor = _between(drawn[0], max(0, 1 - brightness), 1 + brightness)
        image = pixel_ops.blend(jnp.zeros_like(image), image, factor)
    if contrast:
        mean = pixel_ops.mean(pixel_ops.grey(image))
        image = pixel_ops.blend(mean, image, _between(drawn[1], max(0, 1 - contrast), 1 + contrast))
    if saturation:
        factor = _between(drawn[2], max(0, 1 - saturation), 1 + saturation)
        image = pixel_ops.blend(pixel_ops.grey(image), image, factor)
    return pixel_ops.shift_hue(image, _between(drawn[3], -hue, hue)) if hue else image


def grey(key: Array, image: Array, p: float) -> Array:
    """Replace the colours by their luma, with probability p."""
    return jnp.where(_uniform(key) < jnp.float32(p), pixel_ops.grey(image), image)


def blur(key: Array, image: Array, p: float) -> Array:
    """Blur with a Gaussian of a standard deviation uniform from 0.1 to 2 pixels (as MoCo v2), with probability p."""
    drawn = _uniform(key, 2)
    return jnp.where(drawn[0] < jnp.float32(p), pixel_ops.blur(image, _between(drawn[1], *SIGMA)), image)


def erase(key: Array, image: Array, p: float) -> Array:
    """Replace a random rectangle by uniform noise (Zhong et al., 2020), with probability p.

    Its area is uniform from 0.02 to 0.33 of the image's, the logarithm of its height / width is uniform between those
    of 0.3 and 3.3, and its place is uniform. Every value in it is uniform from 0 to 255, as in the paper's algorithm.
    If none of ten draws fits into the image, nothing is erased.
    """
    where, what = jax.random.split(key)
    drawn = _uniform(where, 1 + RECTANGLE)
    start, size, fits = _rectangle(drawn[1:], image.shape[:2], ERASED_AREA, ERASED_RATIO, smaller=True)
    size = jnp.where(fits & (drawn[0] < jnp.float32(p)), size, 0)
    return pixel_ops.erase(image, start, size, _noise(what, image.shape))


def _rectangle(
    drawn: Array, whole: tuple[int, ...], area: tuple[float, float], ratio: tuple[float, float], smaller: bool = False
) -> tuple[Array, Array, Array]:
    """Return a rectangle: its first row and column, (2,) int32, its height and width, (2,) int32, and whether it fits.

    Args:
      drawn: (RECTANGLE,) float32, uniform.
      whole: height and width of the image.
      area: least and largest share of the image's area; uniform.
      ratio: least and largest height / width; its logarithm is uniform.
      smaller: whether it must be smaller than the image in both directions.
    """
    of_area, of_ratio, place = drawn[:ATTEMPTS], drawn[ATTEMPTS : 2 * ATTEMPTS], drawn[2 * ATTEMPTS :]
    root = jnp.sqrt(whole[0] * whole[1] * _between(of_area, *area))
    half = _between(of_ratio, math.log(ratio[0]) / 2, math.log(ratio[1]) / 2)
    sizes = jnp.round(root[:, None] * jnp.exp(jnp.stack([half, -half], axis=-1))).astype(jnp.int32)
    most = jnp.asarray(whole, jnp.int32)
    fits = ((sizes > 0) & (sizes <= most - smaller)).all(-1)
    size = sizes[jnp.argmax(fits)]
    return _which(place, jnp.maximum(most - size, 0) + 1), size, fits.any()


# --- draws ------------------------------------------------------------------------------------------------------------


def _uniform(key: Array, *shape: int) -> Array:
    """Draw numbers from 0 to below 1: float32, whatever the default type is. One draw compiles faster than several."""
    return jax.random.uniform(key, shape, jnp.float32)


def _between(drawn: Array, low: float, high: float) -> Array:
    return jnp.float32(low) + drawn * jnp.float32(high - low)


def _which(drawn: Array, many: Array | int) -> Array:
    """Return whole numbers from 0 to below `many`, int32; the largest draw, 1 - 2^-23, does not round up to it."""
    return jnp.floor(drawn * jnp.asarray(many, jnp.float32)).astype(jnp.int32)


def _sign(drawn: Array) -> Array:
    return jnp.where(drawn < jnp.float32(0.5), jnp.float32(1), jnp.float32(-1))


def _noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Return uniform bytes, (H, W, C) uint8 with C up to 4: those of one random word for each pixel."""
    height, width, channels = shape
    word = jax.random.bits(key, (height, width, 1), jnp.uint32)
    return (word >> (8 * jnp.arange(channels, dtype=jnp.uint32))).astype(jnp.uint8)


OPERATIONS: dict[str, Callable[..., Array]] = {
    'randaugment': randaugment,
    'trivialaugment': trivialaugment,
    'jitter': jitter,
    'grey': grey,
    'blur': blur,
    'erase': erase,
}
