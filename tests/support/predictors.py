"""Predictors with random weights, of any network: what `mixjax.load` gives after training."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models, tasks
from mixjax.data.feed import augment
from mixjax.data.pixels import photo
from mixjax.inference import Network, Predictor

CLASSES = 5


def side_of(name: str) -> int:
    """A small image that a published network takes."""
    side = models.about(name).shape[1]
    patch = re.search(r'patch(\d+)', name)
    if '_fixed' in name:
        return side
    return 3 * int(patch[1]) if patch else 48 if name == 'test_vit' else min(side, 64)


def random_predictor(
    name: str, side: int = 0, *, crop: int = 0, tta: str = '', dtype: str = 'float32', seed: int = 0, **fields: Any
) -> Predictor:
    """A predictor whose weights, statistics and scales are drawn at random, so that every part of it matters.

    name: the network. side, crop: of the stored image, and of what is seen. fields: of `Predictor`.
    """
    about = models.about(name)
    side = side or side_of(name)
    image, crop = about.image, crop or side
    net, draw = models.build(name, dtype=dtype), np.random.default_rng(seed)
    shown = jnp.zeros((1, crop, crop, about.channels))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), shown, {'target': CLASSES}))

    def drawn(path, leaf):
        normal = draw.standard_normal(leaf.shape, np.float32)
        what = path[-1].key
        if what == 'var':
            return 0.5 + np.abs(normal)
        if what in ('scale', 'gamma'):
            return 1 + 0.2 * normal
        return 0.02 * normal if leaf.ndim < 2 else normal * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    geometry = augment.Geometry(crop, 0, False, tuple(image['mean']), tuple(image['std']))
    network = Network(net, variables, lambda out: out.logits['target'], geometry, tta)
    rule = photo.Rule(side, 'short', image['interpolation'], True, about.channels)
    about = {'model': name, 'dtype': dtype, 'licence': 'CC0-1.0'}
    fields = {'batch': 3, 'task': tasks.CLASSIFICATION, **fields}
    return Predictor(tuple(f'class {k}' for k in range(CLASSES)), about, rule, network, **fields)


def sharpened(predictor: Predictor, images: np.ndarray) -> Predictor:
    """The predictor with a classifier whose answers differ between images, and of which it is sure."""
    head, logits = predictor.network.variables['params']['heads']['target'], predictor.logits(images)
    middle = logits.mean(0)
    factor = 2 / (logits - middle).std()
    head.update(kernel=head['kernel'] * factor, bias=(head['bias'] - middle) * factor)
    return predictor


def stored_images(predictor: Predictor, count: int = 2, seed: int = 1) -> np.ndarray:
    """Smooth images as the predictor stores them, (count, side, side, C)."""
    shape = count, 4, 4, predictor.rule.channels
    coarse = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return np.stack([photo.fit(one, predictor.rule) for one in coarse])
