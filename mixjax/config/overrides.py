"""Overrides: setting one value of a config from text, with the type that it has in the config."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mixjax.errors import UserError, nearest

LARGEST = 2**1000  # largest integer that is converted to a float
WORDS = ('optim.freeze', 'optim.factors', 'search.networks', 'search.methods')  # tuples of words that may be empty


def apply(config: Any, key: str, text: str) -> None:
    """Set one value of a config from text.

    Args:
      config: the config, which is changed.
      key: the dotted key.
      text: the value; it is parsed according to the type of the present value.
    """
    node: Any = config
    *parents, last = key.split('.')
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or part not in node:
            known = list(keys(config))
            hint = nearest(key, known) or nearest(last, [k.rpartition('.')[2] for k in known])
            raise UserError(f'unknown config key {key!r}{hint}')
        if depth < len(parents):
            node = node[part]
    old: Any = node[last]
    if isinstance(old, ConfigDict):
        raise UserError(f'config.{key} is a group; set one of {", ".join(f"{key}.{k}" for k in old)}')
    node[last] = typed(key, old, _parse(key, old, text))


def keys(config: Any, prefix: str = '') -> Iterator[str]:
    """Yield the dotted keys of all settings of a config."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f'{prefix}{key}.')
        else:
            yield prefix + key


def _parse(key: str, old: Any, text: str) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        lowered = text.lower()
        if lowered not in ('true', 'false', '1', '0'):
            raise UserError(f'config.{key} is true or false, not {text!r}')
        return lowered in ('true', '1')
    if isinstance(old, tuple) and not text.strip():
        return ()
    if _of_words(key, old):
        return tuple(word.strip() for word in text.split(',') if word.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # SyntaxWarnings about the text
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError(f'config.{key} must be {_kind(key, old)}, not {short(text)}') from None
    if isinstance(old, tuple) and not isinstance(value, (tuple, list)):
        value = (value,)
    return value


_KINDS = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'text',
    tuple: 'numbers separated by commas',
}


def _of_words(key: str, old: Any) -> bool:
    return key in WORDS or isinstance(old, tuple) and bool(old) and all(isinstance(v, str) for v in old)


def _kind(key: str, old: Any) -> str:
    return 'words separated by commas' if _of_words(key, old) else _KINDS.get(type(old), type(old).__name__)


def typed(key: str, old: Any, value: Any) -> Any:
    """Return a value with the type that a setting has, or raise a `UserError` that names the key.

    Args:
      key: the dotted key.
      old: the present value, which has the type.
      value: the new value.
    """
    kind = type(old)
    if kind is float and type(value) is int:
        if abs(value) < LARGEST:
            return float(value)
    elif kind is tuple and type(value) in (tuple, list):
        if all(isinstance(v, str) if _of_words(key, old) else type(v) in (int, float) for v in value):
            return tuple(value)
    elif type(value) is kind:
        if kind is int and key.partition('.')[0] in ('method', 'compare') and abs(value) >= 2**31:
            raise UserError(f'config.{key} must be a whole number below {2**31:,}, not {short(value)}')
        return value
    raise UserError(f'config.{key} must be {_kind(key, old)}, not {short(value)}')


def short(value: Any) -> str:
    """Format a value for a message, at most one line."""
    try:
        text = repr(value)
    except ValueError:  # a number of too many digits
        return 'this number'
    return text if len(text) <= 80 else f'{text[:76]} ..'
