"""A network and its variables by name, for a training loop of one's own: `create_model`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp

from mixjax import models
from mixjax.errors import UserError, require
from mixjax.models import weights as weights_lib
from mixjax.models.net import Net

Variables: TypeAlias = 'dict[str, jax.Array | Variables]'


def create_model(
    name: str, weights: str | Path = '', *, classes: int = 0, seed: int = 0, dtype: str = 'float32'
) -> tuple[Net, Variables]:
    """Create a network, and the variables it starts from.

    Args:
      name: one of `mixjax.models.names()`, such as 'resnet50'.
      weights: pretrained weights: hf://OWNER/NAME, a safetensors or torch file, a run's folder, embedded://glyphnet;
        '' draws all at random.
      classes: of a new classifier, drawn at random; 0 keeps that of the weights.
      seed: of what is drawn at random.
      dtype: what the network computes in, 'float32' or 'bfloat16'; its variables are float32.

    Returns:
      (network, variables). `network.apply(variables, images, train=False)` gives (out, state): `out.logits['target']`
      (B, classes), `out.features` (B, d), and `state`, the statistics of BatchNorm, which `train=True` changes.
      images: (B, H, W, C) floats, normalised as the weights expect it (`mixjax.models.preprocessing`).

    Example:
      >>> import jax, jax.numpy as jnp, mixjax
      >>> network, variables = mixjax.create_model('glyphnet', 'embedded://glyphnet', classes=3)
      >>> images, labels = jnp.ones((6, 16, 16, 1)), jnp.array([0, 1, 2, 0, 1, 2])
      >>> params, state = variables['params'], {'batch_stats': variables['batch_stats']}
      >>> def loss(params, state):
      ...     out, state = network.apply({'params': params, **state}, images, train=True)
      ...     return mixjax.losses.cross_entropy(out.logits['target'], labels).mean(), state
      >>> (value, state), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state)
      >>> params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
      >>> out, _ = network.apply({'params': params, **state}, images, train=False)
      >>> out.logits['target'].shape, out.features.shape
      ((6, 3), (6, 64))
    """
    require(type(classes) is int and classes >= 0, f'classes must be a whole number of at least 0, not {classes!r}')
    net, spec = models.build(name, dtype=dtype), str(weights)
    if spec.startswith(weights_lib.RANDOM):
        raise UserError(f'weights {spec} are a stand-in for trials; leave the weights out to draw them at random')
    found = models.read(spec, name, dtype=dtype) if spec else None
    image = jnp.zeros(models.about(name).shape if found is None else found.about.shape)
    heads = {'target': classes} if classes else {}
    if found is None:
        return net, cast(Variables, jax.jit(lambda key: net.init(key, image, heads))(jax.random.key(seed)))
    params = dict(found.variables['params'])
    if classes:
        params['heads'] = jax.jit(lambda key: net.init(key, image, heads)['params']['heads'])(jax.random.key(seed))
    return net, cast(Variables, {**found.variables, 'params': params})
