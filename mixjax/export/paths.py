"""Paths of the user, which do not leave the machine with a network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any


def without_paths(command: str) -> str:
    """Return a command line, or a setting, in which every path is its last name only."""

    def last(word: str) -> str:
        name, mark, value = word.rpartition('=')
        if re.match(r'(hf|pypi|embedded|random)://', value):
            return word
        parts = [part for part in value.replace('\\', '/').split('/') if part not in ('', '.', '~')]
        return name + mark + (parts[-1] if '/' in value.replace('\\', '/') and parts else value)

    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return shlex.join(last(word) for word in words) if len(words) > 1 else last(command)


def public(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of `model.json` in which every path of the method's settings is its last name only."""
    method = about.get('method', {})
    kept = {key: without_paths(value) if isinstance(value, str) else value for key, value in method.items()}
    return {**about, 'method': kept}
