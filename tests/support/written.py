"""Networks with random weights in a folder, as a run leaves them: `model.safetensors` and `model.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models
from mixjax.models import weights


def variables(name: str, side: int, heads: dict[str, int], seed: int = 0) -> Any:
    """Random variables with which logits depend on the image: kernels have gain sqrt(2), no statistic is trivial."""
    net, image = models.build(name), jnp.zeros((1, side, side, models_channels(name)))
    shapes = jax.eval_shape(lambda key: net.init(key, image, heads), jax.random.key(0))
    random = np.random.RandomState(seed)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        last, z = path[-1].key, random.randn(*leaf.shape)
        if last == 'var':
            value = 1 + 0.1 * np.abs(z)
        elif last == 'kernel':
            value = z * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            value = (last == 'scale') + 0.1 * z
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def models_channels(name: str) -> int:
    """The colours of a network's published images."""
    return len(models.image_settings(name)['mean'])


def write_network(folder: Path, name: str, side: int, classes: int = 5, **more: Any) -> Path:
    """Write a network for images of `side` pixels; `more` goes into `model.json`."""
    folder.mkdir(parents=True)
    image = {**models.image_settings(name), 'crop': side, 'resize': side + side // 8}
    about = {
        'format': 1, 'model': name, 'dtype': 'float32', 'classes': [f'class {k}' for k in range(classes)],
        'data': 'folder', 'image': image, 'channels': models_channels(name), 'method': {'name': 'finetune'}, 'steps': 7,
        'step': 7, **more,
    }  # fmt: skip
    (folder / 'model.safetensors').write_bytes(weights.to_bytes(variables(name, side, {'target': classes})))
    (folder / 'model.json').write_text(json.dumps(about))
    return folder
