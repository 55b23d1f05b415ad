"""The image preprocessing of a network: size, crop, interpolation and colours, which belong to its weights.

They are settings of `config.image` (`resize`, `crop`, `interpolation`, `mean`, `std`) and are in
`model.json` of a run's exported model. The network's published ones are used where the weights name none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
KEYS = ('resize', 'crop', 'interpolation', 'mean', 'std')
LARGEST = 4096  # side of an image


def settings(size: int, fraction: float, interpolation: str, colours: tuple = IMAGENET) -> dict[str, Any]:
    """Return the settings for seeing the central `size` of an image whose shorter side is size / fraction.

    Args:
      size: side of the network's input.
      fraction: size / shorter side of the resized image.
      interpolation: name of the interpolation.
      colours: mean and standard deviation.
    """
    mean, std = colours
    # 224 / 0.875 is 256 in floating point too, and 380 / 0.922 is 412.1.
    resize = math.floor(size / fraction)
    return {'resize': resize, 'crop': size, 'interpolation': interpolation, 'mean': mean, 'std': std}


def checked(said: Any) -> dict[str, Any]:
    """Return the settings, of these five, that a file sets; raise `ValueError` for an impossible one."""
    if not isinstance(said, dict):
        raise ValueError('its image is not a group of settings')
    rules = {
        'resize': lambda v: type(v) is int and 0 < v <= LARGEST,
        'crop': lambda v: type(v) is int and 0 < v <= LARGEST,
        'interpolation': lambda v: v in ('bilinear', 'bicubic'),
        'mean': lambda v: _colours(v, 0),
        'std': lambda v: _colours(v, 1e-6),
    }
    found = {key: said[key] for key in KEYS if key in said}
    for key, value in found.items():
        if not rules[key](value):
            raise ValueError(f'its image.{key} cannot be {str(value)[:60]!r}')
    return found


def _colours(values: Any, least: float) -> bool:
    fit = isinstance(values, (list, tuple)) and len(values) in (1, 3)
    return fit and all(type(v) in (int, float) and least <= v <= 1 for v in values)


def read_settings(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings in timm's `config.json` or transformers' `preprocessor_config.json`."""
    facts = about.get('pretrained_cfg')
    if isinstance(facts, dict) and isinstance(facts.get('input_size'), list):
        colours = tuple(facts.get('mean', IMAGENET[0])), tuple(facts.get('std', IMAGENET[1]))
        size, fraction = facts['input_size'][-1], facts.get('crop_pct', 0.875)
        return checked(settings(int(size), float(fraction), str(facts.get('interpolation', 'bilinear')), colours))
    if 'image_mean' in about and isinstance(about.get('size'), dict):
        size, fraction = about['size'].get('shortest_edge') or about['size'].get('height'), about.get('crop_pct', 0.875)
        way = {2: 'bilinear', 3: 'bicubic'}.get(about.get('resample', 2), 'bilinear')
        colours = tuple(about['image_mean']), tuple(about['image_std'])
        return checked(settings(int(size), float(fraction or 0.875), way, colours))
    return None
