"""`mixjax calibrate`: fit the probabilities of a finished run to how often they are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.host import storage
from mixjax.host.storage import Place

UNKNOWN = 0.05  # share of the images of known classes that --unknown may give up
FOLDS = 5  # of config.calibrate=folds


def run(arguments: Arguments) -> int:
    """Calibrate, print what came of it, and write the report again; returns the exit code."""
    import_modules(arguments['import'])
    from mixjax import report
    from mixjax.search import calibrate

    folder = storage.reachable(arguments.positional[0])
    unknown = UNKNOWN if arguments['unknown'] else 0.0
    print(text(calibrate.calibrate(folder, count=arguments['folds'], unknown=unknown, say=print)))
    if storage.is_file(folder / 'results.json'):
        print(f'report: {report.write(folder)}')
    return 0


def of_config(what: str, folder: Place, results: dict[str, Any], again: bool) -> None:
    """Calibrate the runs of a work directory, as `config.calibrate` asks.

    Args:
      what: 'val' or 'folds'.
      folder: the work directory.
      results: the contents of its `results.json`.
      again: also runs that were calibrated before.
    """
    from mixjax.search import calibrate

    for run in calibrate.runs_of(folder, results):
        if again or not storage.is_file(run / calibrate.FILE):
            count = FOLDS if what == 'folds' else 0
            print(f'{run.name}: {text(calibrate.calibrate(run, count=count, say=print))}')


def text(found: Mapping[str, Any]) -> str:
    """Format a calibration for a terminal."""
    rows = [(found['origin'], found), *([('test images', found['test'])] if 'test' in found else [])]
    lines = [f'temperature {found["temperature"]:.3g}, fitted to {found["examples"]:,} {found["origin"]}']
    for name, one in rows:
        before, after = one['before'], one['after']
        lines.append(
            f'{one["examples"]:,} {name}: calibration error {100 * before["error"]:.1f} to {100 * after["error"]:.1f} '
            f'%, Brier score {before["brier"]:.3f} to {after["brier"]:.3f}'
        )
    if 'threshold' in found:
        lines.append(f'an image whose likeliest class has less than {100 * found["threshold"]:.0f} % is unknown')
    return '\n'.join(lines)
