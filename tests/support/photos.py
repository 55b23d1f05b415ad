"""Folders of made-up photographs, and the part of a config that names one."""

import io

import numpy as np
from PIL import Image

from mixjax import config as config_lib


def png(seed, size=(12, 10)):
    out = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(out, 'PNG')
    return out.getvalue()


def put(root, *names, data=None):
    """Image files, each with pixels of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(hash_of(name)) if data is None else data)


def hash_of(name):
    return sum(ord(c) * 31**k for k, c in enumerate(name)) % 2**31


def node(**settings):
    target = config_lib.base().target
    target.update({'name': 'folder', **settings})
    return target
