"""A disk cache for arrays that take a pass over a data set to compute.

It is in `config.cache_dir`, else in $MIXJAX_CACHE, else in $XDG_CACHE_HOME/mixjax or ~/.cache/mixjax. The name of a
file is a hash of everything that its content depends on, so nothing has to be cleared by hand. A damaged or
unwritable cache costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixjax.host import storage, untrusted

FORMAT = 1


def digest(tree: Any) -> str:
    """Return a hash of the arrays of a tree: their paths, types, shapes and values."""
    out = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        out.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
        out.update(array.tobytes())
    return out.hexdigest()


class Cache:
    """A cache of named arrays that all depend on `key` (JSON data). With the key None it is in memory only."""

    def __init__(self, folder: Path, key: Any) -> None:
        self._folder, self._key = folder, key
        self._kept: dict[str, np.ndarray] = {}

    def get(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array called `name` from memory or disk; otherwise make and store it."""
        if name not in self._kept:
            found = None if self._key is None else self._read(name)
            self._kept[name] = make() if found is None else found
            if found is None and self._key is not None:
                self._write(name, self._kept[name])
        return self._kept[name]

    def path(self, name: str) -> Path:
        """Return the file of an array."""
        text = json.dumps({'format': FORMAT, 'name': name, 'key': self._key}, sort_keys=True)
        return self._folder / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz'

    def _read(self, name: str) -> np.ndarray | None:
        try:
            return untrusted.arrays(self.path(name))['array']
        except (OSError, ValueError, KeyError):
            return None

    def _write(self, name: str, array: np.ndarray) -> None:
        with contextlib.suppress(OSError):
            storage.make_folder(self._folder)
            with storage.open_atomic(self.path(name)) as file:
                np.savez(file, array=array)
