"""Reads `config.image.augment` and `config.image.tta`: operations with numbers, as `grey(0.1),erase(0.25)`.

An operation may have numbers in brackets; operations are separated by commas, and apply in the order given.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from mixjax.errors import UserError, nearest, require


class Number(NamedTuple):
    """A number of an operation: its name, its range, and its default; without a default it must be given."""

    name: str
    least: float
    most: float
    whole: bool = False
    default: float | None = None


class Operation(NamedTuple):
    """An operation with its numbers, one for each of its `Number`s."""

    name: str
    numbers: tuple[float, ...]


SHARE = (Number('p', 0, 1),)
AUGMENT: dict[str, tuple[Number, ...]] = {
    'randaugment': (Number('n', 1, 10, whole=True), Number('magnitude', 0, 30)),
    'trivialaugment': (),
    'jitter': (
        Number('brightness', 0, 10), Number('contrast', 0, 10), Number('saturation', 0, 10),
        Number('hue', 0, 0.5, default=0.0),
    ),
    'resized_crop': (Number('min_scale', 0.001, 1), Number('max_scale', 0.001, 1, default=1.0)),
    'grey': SHARE,
    'blur': SHARE,
    'erase': SHARE,
}  # fmt: skip
TTA: dict[str, tuple[Number, ...]] = {'flip': (), 'crops': ()}


@functools.cache
def augmentations(text: str) -> tuple[Operation, ...]:
    """Return the operations of `config.image.augment`; raise a `UserError` for anything that it cannot say.

    Example:
      >>> augmentations('resized_crop(0.2),grey(0.1)')
      (Operation(name='resized_crop', numbers=(0.2, 1.0)), Operation(name='grey', numbers=(0.1,)))
    """
    found = read(text, AUGMENT)
    for place, one in enumerate(found):
        if one.name == 'resized_crop':
            require(place == 0, 'resized_crop must come first, because it takes the place of the random crop')
            least, most = one.numbers
            require(least <= most, f'min_scale={least:g} of resized_crop must be at most max_scale={most:g}')
    return found


@functools.cache
def views(text: str) -> frozenset[str]:
    """Return the names in `config.image.tta`: `flip`, `crops`, both or none.

    Example:
      >>> sorted(views('flip,crops'))
      ['crops', 'flip']
    """
    names = [one.name for one in read(text, TTA)]
    require(len(set(names)) == len(names), f'{text!r} names an operation twice')
    return frozenset(names)


def read(text: str, known: Mapping[str, tuple[Number, ...]]) -> tuple[Operation, ...]:
    """Return the operations that a text names, with their numbers.

    Args:
      text: names, each with its numbers in brackets, separated by commas; '' for none.
      known: the numbers of each operation.
    """
    if not text.strip():
        return ()
    return tuple(_operation(part, known) for part in re.split(r',(?![^(]*\))', text))


def _operation(part: str, known: Mapping[str, tuple[Number, ...]]) -> Operation:
    match = re.fullmatch(r'\s*(\w+)\s*(?:\(([^()]*)\)\s*)?', part)
    if not match:
        raise UserError(f'{part.strip()!r} cannot be read; give {_all(known)}, separated by commas')
    name, inside = match[1], match[2] or ''
    if name not in known:
        raise UserError(f'{name!r} is not one of {", ".join(known)}{nearest(name, known)}')
    numbers = known[name]
    given = [word.strip() for word in inside.split(',')] if inside.strip() else []
    needed = sum(number.default is None for number in numbers)
    if not needed <= len(given) <= len(numbers):
        raise UserError(f'{part.strip()!r} has {len(given)} numbers; write {_form(name, numbers)}')
    more = [number.default for number in numbers[len(given) :] if number.default is not None]
    return Operation(
        name, (*(_number(name, number, word) for number, word in zip(numbers, given, strict=False)), *more)
    )


def _number(name: str, number: Number, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float('nan')
    if not number.least <= value <= number.most or number.whole and value != int(value):
        kind = 'a whole number' if number.whole else 'a number'
        raise UserError(
            f'{number.name} of {name} must be {kind} from {number.least:g} to {number.most:g}, not {word!r}'
        )
    return value


def _form(name: str, numbers: tuple[Number, ...]) -> str:
    """Return how an operation is written: `resized_crop(min_scale[,max_scale])`."""
    needed = ','.join(number.name for number in numbers if number.default is None)
    more = ''.join(f'[,{number.name}]' for number in numbers if number.default is not None)
    return f'{name}({needed}{more})' if numbers else name


def _all(known: Mapping[str, tuple[Number, ...]]) -> str:
    return ', '.join(_form(name, numbers) for name, numbers in known.items())
