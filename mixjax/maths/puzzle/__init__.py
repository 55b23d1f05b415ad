"""PuzzleMix: the choice of blocks from two images, and of their places (Kim et al. 2020).

https://arxiv.org/abs/2009.06962

Pure functions on batches, for use inside jit: no host callback, no convolution, no network.

    saliency    the importance of each pixel
    masks       the share of self in each block: the labels of least cost (`problem`, `mincut`)
    combined    the mixed image: salient blocks moved (`transport`), and blended
    mix         all of it, with a random number of blocks for each batch

`self` is the image of an example, `partner` the image that it is mixed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mixjax import losses
from mixjax import mix as mix_lib
from mixjax.errors import require
from mixjax.maths.puzzle import mincut, transport
from mixjax.maths.puzzle.problem import costs, normalised, pool, terms

Array = jax.Array


class Settings(NamedTuple):
    """Settings of PuzzleMix; the defaults are those of the released code.

    Sizes that do not divide a block are replaced by the next smaller one that does.

    Attributes:
      beta: weight of the smoothness of the labels; it is divided by 16 n.
      gamma: weight of the images' differences in the smoothness.
      eta: weight of the labels' prior; it is divided by n^2.
      neighbourhood: images are pooled by this many pixels before neighbours are compared.
      transport: move salient blocks.
      transport_size: side of the blocks that are moved, in pixels; at most the side of a block with a label. -1 is
        that side; 0 is an eighth of the image, as the released 4 of 32 pixels.
      transport_eps: cost of moving a block along the whole image; it grows with the squared distance.
    """

    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    neighbourhood: int = 4
    transport: bool = True
    transport_size: int = 0
    transport_eps: float = 0.8

    def checked(self) -> Settings:
        """Return these settings, or raise a `UserError` for a value out of range."""
        require(0 <= self.beta <= 100, f'beta must be between 0 and 100, not {self.beta}')
        require(0 <= self.gamma <= 1, f'gamma must be between 0 and 1, not {self.gamma}')  # else weights below 0
        require(0 <= self.eta <= 10, f'eta must be between 0 and 10, not {self.eta}')
        require(self.neighbourhood >= 1, f'neighbourhood must be at least 1, not {self.neighbourhood}')
        require(self.transport_size >= -1, f'transport_size must be at least -1, not {self.transport_size}')
        require(self.transport_eps >= 0, f'transport_eps must be at least 0, not {self.transport_eps}')
        return self


RELEASED = Settings()


def rms(gradient: Array) -> Array:
    """Return the root mean square over the channels: (B, H, W, C) -> (B, H, W)."""
    return jnp.sqrt(jnp.mean(jnp.square(gradient), axis=-1))


def saliency(logits: Callable[[Array], Array], image: Array, label: Array) -> Array:
    """Return the importance of each pixel: `rms` of the gradient of the cross-entropy by the image.

    Args:
      logits: maps images to (B, c), with `stop_gradient` around its parameters: an outer gradient with respect to
        them would otherwise pass through this one.
      image: (B, H, W, C).
      label: (B,) int, or (B, c) soft targets.

    Returns:
      (B, H, W)
    """
    chex.assert_rank(image, 4, custom_message='image must be (B, H, W, C)')
    return rms(jax.grad(lambda x: losses.cross_entropy(logits(x), label).mean())(image))


def fitting(size: int, block: int) -> int:
    """Return the largest number of at most `size` that divides `block`."""
    return max(k for k in range(1, min(size, block) + 1) if block % k == 0)


def repeated(x: Array, times: int) -> Array:
    """Repeat each entry in a square: (B, n, n) -> (B, n * times, n * times)."""
    return jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2)


def _check_images(image_self: Array, image_partner: Array, u_self: Array, u_partner: Array) -> None:
    chex.assert_rank(image_self, 4, custom_message='images must be (B, H, H, C)')
    chex.assert_equal_shape([image_self, image_partner], custom_message='both images must have the same shape')
    for u in (u_self, u_partner):
        chex.assert_shape(u, image_self.shape[:3], custom_message='saliency must be (B, H, H)')


def masks(
    image_self: Array,
    image_partner: Array,
    u_self: Array,
    u_partner: Array,
    lam: Array,
    *,
    blocks: int,
    settings: Settings = RELEASED,
) -> Array:
    """Return the share of self in each block, 0, 1/2 or 1.

    Args:
      image_self: (B, H, H, C) in [0, 1].
      image_partner: (B, H, H, C) in [0, 1].
      u_self: (B, H, H), the saliency of `image_self`.
      u_partner: (B, H, H), the saliency of `image_partner`.
      lam: (), the share of self in the prior.
      blocks: n, the number of blocks a side.
      settings: of PuzzleMix.

    Returns:
      (B, n, n)
    """
    _check_images(image_self, image_partner, u_self, u_partner)
    chex.assert_rank(lam, 0, custom_message='lam must be one number')
    side = image_self.shape[1] // blocks
    beta = settings.beta / blocks / 16
    found = terms(
        image_self,
        image_partner,
        normalised(pool(u_self, side)),
        normalised(pool(u_partner, side)),
        neighbourhood=fitting(settings.neighbourhood, side),
        beta=beta,
        gamma=settings.gamma,
    )
    labels = mincut.solve(costs(found, lam, beta=beta, eta=settings.eta))
    return 1 - labels.astype(image_self.dtype) / 2


def combined(
    image_self: Array, image_partner: Array, u_self: Array, u_partner: Array, mask: Array, settings: Settings
) -> tuple[Array, Array]:
    """Move salient blocks, and blend two images by a mask.

    Args:
      image_self: (B, H, H, C), normalised: 0 is the mean colour.
      image_partner: (B, H, H, C), normalised too.
      u_self: (B, H, H), the saliency of `image_self`.
      u_partner: (B, H, H), the saliency of `image_partner`.
      mask: (B, n, n), the share of self in each block.
      settings: of PuzzleMix.

    Returns:
      The mixed images (B, H, H, C), and the label weight of self (B,), the mean of the mask.
    """
    _check_images(image_self, image_partner, u_self, u_partner)
    chex.assert_shape(mask, (len(image_self), mask.shape[-1], mask.shape[-1]), custom_message='mask must be (B, n, n)')
    side, n = image_self.shape[1], mask.shape[1]
    if settings.transport:
        wanted = {0: max(side // 8, 1), -1: side}.get(settings.transport_size, settings.transport_size)
        size = fitting(wanted, side // n)
        require(side // size <= 32, f'transport_size must be at least a 32nd of the image ({side} pixels), or 0 or -1')
        shown = repeated(mask, side // n // size)
        u_self, u_partner = (normalised(pool(u, size)) for u in (u_self, u_partner))
        image_self = transport.moved(image_self, transport.plan(shown, u_self, settings.transport_eps))
        image_partner = transport.moved(image_partner, transport.plan(1 - shown, u_partner, settings.transport_eps))
    share = repeated(mask, side // n)[..., None]
    return share * image_self + (1 - share) * image_partner, mask.mean((1, 2))


def mix(
    rng: Array,
    image: Array,
    u: Array,
    partner: Array,
    lam: Array | float,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: Settings = RELEASED,
) -> tuple[Array, Array]:
    """Apply PuzzleMix to a batch, with a random number of blocks a side for the whole batch: 2, 4, 8 or 16.

    Args:
      rng: draws the number of blocks, among those that divide the image.
      image: (B, H, H, C), normalised by `mean` and `std`.
      u: (B, H, H), the saliency of `image`.
      partner: (g, B/g) or (B,), see `mix.partner`.
      lam: (), the share of self in the prior; the actual share is returned.
      mean: mean of each colour.
      std: standard deviation of each colour.
      settings: of PuzzleMix.

    Returns:
      The mixed images (B, H, H, C), and the label weight of self (B,), the mean of its mask.
    """
    chex.assert_rank(image, 4, custom_message='image must be (B, H, W, C)')
    chex.assert_shape(u, image.shape[:3], custom_message='u must be (B, H, W), the saliency of image')
    chex.assert_rank(lam, 0, custom_message='lam must be one number')
    side = image.shape[1]
    numbers = [n for n in (2, 4, 8, 16) if side % n == 0]
    require(image.shape[2] == side and bool(numbers), f'PuzzleMix: images must be square and even, not {image.shape}')

    def branch(n: int) -> Callable[..., tuple[Array, Array]]:
        def run(image: Array, other: Array, u: Array, u_other: Array, lam: Array) -> tuple[Array, Array]:
            colours, colours_other = (
                x * jnp.asarray(std, x.dtype) + jnp.asarray(mean, x.dtype) for x in (image, other)
            )
            mask = masks(colours, colours_other, u, u_other, lam, blocks=n, settings=settings)
            return combined(image, other, u, u_other, mask, settings)

        return run

    drawn = jax.random.randint(rng, (), 0, len(numbers))
    other, u_other = mix_lib.partner(image, partner), mix_lib.partner(u, partner)
    # One program has the branches of all numbers, and runs only the one that was drawn.
    return jax.lax.switch(drawn, [branch(n) for n in numbers], image, other, u, u_other, jnp.asarray(lam))
