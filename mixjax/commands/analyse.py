"""Measure what the papers measure of a finished run, besides its accuracy.

    python -m mixjax.commands.analyse --workdir=runs/quickstart --what=interpolation,spectrum

Writes analysis.json, and analysis-WHAT.npz with arrays for pictures, into the folder of each run, prints a table, and
writes the report again, which shows them. Of a comparison or a sweep all runs are measured.

  interpolation  label-IL and feature-IL on labelled and test images (SMILE, Table 4)
  spectrum       tail singular values of the features (XMixup, Fig. 2)
  probe          what the trunk still knows of the source classes (XMixup, Table 2)
  targets        learned soft labels, and how they evolve (LaMix, Fig. 2 and 3)
  cam            class activation maps (LaMix, Fig. 7)
  plane          a bottleneck of two units (LaMix, Fig. 8)
  curves         loss and accuracy over training (LaMix, Fig. 5)
  sweep          accuracy against one number in which runs of a comparison differ
                 (XMixup, Fig. 3 and 4; LaMix, Fig. 4 and 6)

Exit codes: 0 done, 2 wrong input or nothing of it can be measured (messages say why).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from mixjax.commands.cli import IMPORT_HELP, carry_out, import_modules
from mixjax.errors import UserError, nearest
from mixjax.host import storage
from mixjax.host.storage import Place

NAMES = ('interpolation', 'spectrum', 'probe', 'targets', 'cam', 'plane', 'curves', 'sweep')


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message} (see --help)')


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(',') if word.strip())


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    text = (__doc__ or '').partition('Exit codes')
    parser = Parser(
        prog='python -m mixjax.commands.analyse',
        description=text[0],
        epilog=text[1] + text[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--workdir', required=True, help='the work directory of a finished run, comparison or sweep')
    add('--what', type=_names, default=('all',), help='what to measure, with commas; all is all that can be (default)')
    add('--seeds', type=int, default=0, help='at most so many seeds (default: all whose networks are there)')
    add('--images', type=int, default=1000, help='at most so many images of a part; 0 for all (default 1000)')
    add('--of', choices=('probabilities', 'logits'), default='probabilities', help='outputs of the label-IL')
    add('--scale', choices=('raw', 'mean', 'unit'), default='raw', help='of interpolation losses (docs/analysis.md)')
    add('--lams', type=int, default=10, help='at how many lam an interpolation loss is taken (default 10)')
    add('--part', choices=('train', 'test'), default='test', help='whose features the spectrum is of (default test)')
    add('--tail', type=int, default=10, help='how many of the smallest singular values (default 10)')
    add('--classes', type=_names, default=(), help='names of classes, with commas: of cam and plane')
    add('--auxiliary', default='', metavar='RUN', help='whose source images are the auxiliary ones of the probe')
    add('--per-class', type=int, default=50, help='source images of a class, for the probe; 0 for all (default 50)')
    add('--probe-steps', type=int, default=1000, help="of the probe's training (default 1000)")
    add('--over', default='', help='the setting, or the note of a method, that a sweep is over')
    add('--import', dest='modules', action='append', default=[], metavar='MODULE', help=IMPORT_HELP)
    given = parser.parse_args(words)
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    for name in given.what:
        if name not in (*NAMES, 'all'):
            raise UserError(
                f'--what: there is no measure {name!r}{nearest(name, NAMES)}; they are {", ".join(NAMES)}, or all'
            )
    if not given.what:
        raise UserError(f'--what needs one of {", ".join(NAMES)}, or all')
    for name, least in (('seeds', 0), ('images', 0), ('lams', 1), ('tail', 1), ('per_class', 0), ('probe_steps', 1)):
        if getattr(given, name) < least:
            raise UserError(f'--{name.replace("_", "-")} must be at least {least}, not {getattr(given, name)}')


def of_config(text: str, workdir: str | Place) -> argparse.Namespace:
    """What `config.analyse` asks for, in the words of this command."""
    try:
        given = arguments([f'--workdir={workdir}', *shlex.split(text)])
        if given.modules:  # the words of a config, which may come from a file
            raise UserError('--import belongs on the command line')
        return given
    except (UserError, ValueError) as error:
        raise UserError(f'config.analyse={text!r}: {error}') from error
    except SystemExit:
        raise UserError(f'config.analyse={text!r}: give settings such as --what=interpolation') from None


def run(given: argparse.Namespace, again: bool = True) -> int:
    """Measure, print and write; returns the exit code. again: also what was measured before."""
    from mixjax.analysis import folders, words
    from mixjax.analysis.measures import Asked

    folder, every = storage.given(given.workdir), 'all' in given.what
    what = NAMES if every else given.what
    if not again and not every and folders.known(folder, what):
        print(f'{", ".join(what)}: measured before; python -m mixjax.commands.analyse measures again')
        return 0
    asked = Asked(**{name: getattr(given, name) for name in Asked._fields})
    found: dict[str, list] = {name: [] for name in what}
    lacking = []
    for one in folders.measure(folder, what, asked):
        if one.lacking:
            lacking.append(one)
            continue
        found[one.what].append((one.label, one.numbers))
        for note in one.notes:
            print(f'{one.label}, {one.what}: {note}', file=sys.stderr)
    for name, rows in found.items():
        if rows:
            print(f'\n{words.table(name, rows)}')
    for one in lacking:
        print(f'not measured: {one.what} of {one.label}: {one.lacking}', file=sys.stderr)
    wanted = [name for name, rows in found.items() if not rows]
    return 2 if wanted and not every or not any(found.values()) else 0


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def what() -> int:
        given = arguments(words)
        import_modules(given.modules)
        code = run(given)
        if code == 0:
            from mixjax import report

            print(f'\nreport: {report.write(given.workdir)}')
        return code

    return carry_out(what)


if __name__ == '__main__':
    sys.exit(main())
