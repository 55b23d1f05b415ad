"""Weights that are cut into several files: the index that says which tensor is in which file.

Large models are published as `model-00001-of-00003.safetensors` and so on, with a `model.safetensors.index.json`.
The index may come from anywhere: it can name files of its own folder only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mixjax.host import untrusted

INDEX = 'model.safetensors.index.json'
MOST_FILES = 1000
MOST_INDEX = 1 << 25  # bytes; an index has a line for each tensor
_PLAIN = re.compile(r'\w[\w.-]{0,200}\.safetensors')


def is_index(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an index, by its name."""
    return os.fspath(path).endswith('.safetensors.index.json')


def read(path: Path) -> dict[str, set[str]]:
    """Return {file name: names of its tensors}, in the order of the files.

    Raises:
      ValueError: it is no index, or names something that is not a plain file name.
      OSError: it cannot be read.
    """
    said = untrusted.parse(untrusted.read_regular(path, MOST_INDEX))
    where = said.get('weight_map') if isinstance(said, dict) else None
    if not isinstance(where, dict) or not where:
        raise ValueError('it has no weight_map')
    out: dict[str, set[str]] = {}
    for tensor, file in where.items():
        if not isinstance(file, str) or not _PLAIN.fullmatch(file) or not file.isascii():
            raise ValueError(f'it names {str(file)[:80]!r}, which is no plain name of a safetensors file')
        out.setdefault(file, set()).add(tensor)
    if len(out) > MOST_FILES:
        raise ValueError(f'it names {len(out)} files, and more than {MOST_FILES} are not read')
    return {file: out[file] for file in sorted(out)}
