"""Arguments of a parameterised config: `dataset=cub200,method=smile`, and the list of all that there are.

As a config file has them:

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
    """Every combination as an argument, in order; the last choice changes fastest."""
    return [
        ','.join(f'{key}={value}' for key, value in zip(choices, values, strict=True))
        for values in itertools.product(*choices.values())
    ]


def choose(argument: str, **choices: Sequence[str]) -> dict[str, str]:
    """As `parse`; a key that the argument does not say has its first choice."""
    said = {part.partition('=')[0] for part in argument.split(',')}
    first = [f'{key}={values[0]}' for key, values in choices.items() if key not in said]
    return parse(','.join(filter(None, [argument, *first])), **choices)


def parse(argument: str, **choices: Collection[str]) -> dict[str, str]:
    """{key: value} of an argument, in the order of the choices; refused unless it makes each of them once."""
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
