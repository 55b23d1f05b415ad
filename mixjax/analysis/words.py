"""The numbers of `analysis.json` as columns of a small table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]
TITLES = {
    'interpolation': 'interpolation loss',
    'spectrum': 'smallest singular values / the largest',
    'probe': 'accuracy of a new classifier on the frozen trunk, %',
    'targets': 'largest soft targets, means',
    'cam': 'share of the image where the class activation map is above half of its maximum',
    'plane': 'two-unit bottleneck: distance between classes / within, and training accuracy',
    'curves': 'end of training',
    'sweep': 'accuracy %',
}


def figure(value: float) -> str:
    """Format a number with four significant digits."""
    return f'{value:.4g}'


def spread(one: Mapping[str, Any], factor: float = 1.0, digits: int | None = None) -> str:
    """Format a mean with its standard deviation, `0.1234 +- 0.0021`; for one seed, the mean alone.

    Args:
      one: {'mean', 'std'}; std is None for one seed.
      factor: multiplies both numbers.
      digits: number of decimals; None for four significant digits.
    """

    def text(value: float) -> str:
        return figure(factor * value) if digits is None else f'{factor * value:.{digits}f}'

    return text(one['mean']) + ('' if one['std'] is None else f' +- {text(one["std"])}')


def _interpolation(found: Numbers) -> dict[str, str]:
    names = ('label_train', 'label_test', 'feature_train', 'feature_test')
    return {name.replace('_', ' '): spread(found[name]) for name in names}


def _spectrum(found: Numbers) -> dict[str, str]:
    places = [0, len(found['values']) // 2, len(found['values']) - 1]
    columns = {f'no. {k + 1} from below': figure(found['values'][k]) for k in dict.fromkeys(places)}
    return {**columns, 'of': str(found['settings']['of'])}


def _probe(found: Numbers) -> dict[str, str]:
    names = [name for name in ('auxiliary', 'all_but_auxiliary', 'all') if name in found]
    return {name.replace('_', ' '): spread(found[name], 100, 2) for name in names}


def _targets(found: Numbers) -> dict[str, str]:
    tops = {kind: ' '.join(f'{value:.3f}' for value in values) for kind, values in found['top'].items()}
    return {**tops, 'largest learned': f'{found["global_max"]["mixed"]:.3f} (at most {found["bounds"][1]:.3f})'}


def _plane(found: Numbers) -> dict[str, str]:
    each = zip(found['steps'], found['separation'], found['train accuracy'], strict=True)
    return {
        f'step {step}': f'{"infinite" if apart is None else f"{apart:.2f}"}, {100 * right:.1f} %'
        for step, apart, right in each
    }


def _curves(found: Numbers) -> dict[str, str]:
    best = found['best']
    return {
        'training loss': spread(found['loss']),
        **{f'of {batch_kind} batches': spread(one) for batch_kind, one in found.get('batch_kinds', {}).items()},
        'accuracy %': spread(found['accuracy'], 100, 2),
        'best step': f'{best["step"]} ({100 * best["mean"]:.2f})',
    }


def _sweep(found: Numbers) -> dict[str, str]:
    columns = {
        f'{name}, {found["over"]} {figure(number)}': spread(one, 100, 2)
        for name, curve in found['curves'].items()
        for number, one in zip(found['numbers'], curve, strict=True)
    }
    return columns | {label: spread(one, 100, 2) for label, one in found['others'].items()}


COLUMNS: dict[str, Callable[[Numbers], dict[str, str]]] = {
    'interpolation': _interpolation,
    'spectrum': _spectrum,
    'probe': _probe,
    'targets': _targets,
    'cam': lambda found: {'share': spread(found['area'])},
    'plane': _plane,
    'curves': _curves,
    'sweep': _sweep,
}


def table(what: str, rows: Sequence[tuple[str, Numbers]]) -> str:
    """Return a table of one measure: its title and a line for each run, or for each column where there are many.

    Args:
      what: name of the measure.
      rows: (label, numbers of `analysis.json`) of each run.
    """
    cells = [(label, COLUMNS[what](found)) for label, found in rows]
    if what in ('sweep', 'plane'):
        lines = [
            [f'  {label}' if len(cells) > 1 else '', name, value]
            for label, columns in cells
            for name, value in columns.items()
        ]
    else:
        names = list(dict.fromkeys(name for _, columns in cells for name in columns))
        lines = [['', *names]]
        lines += [[f'  {label}', *(columns.get(name, '-') for name in names)] for label, columns in cells]
    width = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    body = ['  '.join(cell.ljust(w) for cell, w in zip(line, width, strict=True)).rstrip() for line in lines]
    return '\n'.join([TITLES[what], *body])
