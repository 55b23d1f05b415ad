"""Arguments of a parameterised config, such as `dataset=cub200,method=smile`, and the list of all of them.

Example, in a config file:

    CHOICES = {'dataset': ('cub200', 'food101'), 'method': ('finetune', 'smile')}

    def grid():
        return cells.product(**CHOICES)

    def get_config(argument='dataset=cub200,method=smile'):
        cell = cells.parse(argument, **CHOICES)
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from mixjax.errors import nearest, require


def product(**choices: Collection[str]) -> list[str]:
    """Return every combination as an argument, in order; the last choice changes fastest."""
    return [
        ','.join(f'{key}={value}' for key, value in zip(choices, values, strict=True))
        for values in itertools.product(*choices.values())
    ]


def choose(argument: str, **choices: Sequence[str]) -> dict[str, str]:
    """Return {key: value} as `parse` does, with the first choice for a key that the argument leaves out."""
    said = {part.partition('=')[0] for part in argument.split(',')}
    first = [f'{key}={values[0]}' for key, values in choices.items() if key not in said]
    return parse(','.join(filter(None, [argument, *first])), **choices)


def parse(argument: str, **choices: Collection[str]) -> dict[str, str]:
    """Return {key: value} of an argument, in the order of the choices.

    Args:
      argument: such as `dataset=cub200,method=smile`; it must set each key exactly once.
      **choices: {key: allowed values}.
    """
    pairs = [(key, value) for key, _, value in (part.partition('=') for part in argument.split(',') if part)]
    given = dict(pairs)
    form = ','.join(f'{key}=..' for key in choices)
    for key, value in pairs:
        require(key in choices, f'a cell is {form}, and has no {key!r}{nearest(key, choices)}')
        allowed = choices[key]
        require(value in allowed, f'{key} is one of {", ".join(allowed)}, not {value!r}{nearest(value, allowed)}')
    require(len(given) == len(pairs), f'a cell is {form}, each of them once, not {argument!r}')
    missing = [key for key in choices if key not in given]
    require(not missing, f'a cell is {form}; {argument!r} does not say {" and ".join(missing)}')
    return {key: given[key] for key in choices}
