"""Train: `python -m mixjax.main --config=configs/quickstart.py --workdir=runs/quickstart`.

  --config=FILE[:smoke]    a config file, or the name of a shipped one (--list names them);
                           :smoke tries it for two steps on made-up images, without data or weights
  --workdir=DIR            where results go; the same command again continues a run that was stopped
  --config.KEY=VALUE       change one setting, for example --config.seed=7 --config.optim.lr=0.001
  --list                   the shipped configs, methods, networks and data sets
  --help                   this text

Several processes, each with devices of its own, train one run: the same command in each of them.
  --distributed=auto       as the cluster says that starts them (Cloud TPU, Slurm, Open MPI, Kubernetes);
                           on: it is an error if there is none; off: each process is a run of its own
  --coordinator=HOST:PORT --processes=N --process=I
                           without such a cluster: where process 0 listens, how many there are, which one this is

Exit codes: 0 done, 2 wrong input (one message says what to do), 130 interrupted (run it again to go on).
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import UserError, nearest

CLUSTER = ('distributed', 'coordinator', 'processes', 'process')
FLAGS = ('config', 'workdir', *CLUSTER, 'list', 'help')
SWITCHES = ('list', 'help')  # the flags that have no value


class Command(NamedTuple):
    """What the command line asks for."""

    flags: dict[str, str]
    overrides: list[tuple[str, str]]


def parse(words: Sequence[str], known: Sequence[str] = FLAGS, switches: Sequence[str] = SWITCHES) -> Command:
    """`--flag=value` and `--flag value`; `--config.key=value` goes to the overrides, in order.

    known: the flags of the command. switches: those of them that have no value.
    """
    flags: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        word = '--help' if word == '-h' else word
        if word.startswith('--') and word[2:] in switches:
            flags[word[2:]] = ''
            continue
        if not word.startswith('--'):
            raise UserError(f'unexpected {word!r}: settings are written --name=value (see --help)')
        name, equals, value = word[2:].partition('=')
        setting = name.startswith('config.') and 'config' in known
        if not setting and name not in known:
            raise UserError(f'unknown flag --{name}{nearest(name, known)} (see --help)')
        if not equals:
            if not queue or queue[0].startswith('--'):
                raise UserError(f'--{name} needs a value: --{name}=VALUE')
            value = queue.pop(0)
        if setting:
            overrides.append((name.removeprefix('config.'), value))
        elif name in flags:
            raise UserError(f'--{name} is given twice')
        else:
            flags[name] = value
    return Command(flags, overrides)


def listing() -> str:
    """What ships with mixjax, by name and with a line on each."""
    from mixjax import config, config_file, method, models
    from mixjax.data import sets

    methods = resources.files('mixjax.methods')
    about = {
        'configs': {name: first_line(config_file.folder().joinpath(f'{name}.py')) for name in config.shipped()},
        'methods': {name: first_line(methods.joinpath(f'{name}.py')) for name in method.names()},
        'data sets': {name: sets.title(name) for name in sets.names()},
    }
    lines = [
        '\n'.join([f'{title}:', *(f'  {name:20} {text}' for name, text in rows.items())])
        for title, rows in about.items()
    ]
    networks = textwrap.fill(', '.join(models.names()), 78, initial_indent='  ', subsequent_indent='  ')
    return '\n\n'.join([*lines, f'networks:\n{networks}'])


def first_line(file: Any) -> str:
    """The first line of a module's docstring, without an address or what breaks off; nothing is imported."""
    text = (ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '').partition('\n')[0]
    return re.sub(r' \([^()]*$', '', re.sub(r',? \(?https?://\S*$', '', text)).rstrip('.,:')


def on_disk(place: str) -> Path:
    """A folder that was named on the command line."""
    if '://' in place:
        raise UserError(f'{place}: results go to a disk; object stores are not understood yet, mount a shared disk')
    return Path(place)


def train(command: Command) -> int:
    """Run what the flags say, then print the tables and write the report."""
    from mixjax import cluster, processes
    from mixjax import config as config_lib

    for name in ('config', 'workdir'):
        if not command.flags.get(name):
            raise UserError(f'--{name} is missing (see --help)')
    note = cluster.join(command.flags)
    if note:
        print(f'mixjax: {note}', file=sys.stderr)
    config = config_lib.load(command.flags['config'], command.overrides)
    workdir = on_disk(command.flags['workdir'])

    from mixjax.train import compilations, loop, program
    from mixjax.train.progress import Progress
    from mixjax.train.workdir import ELSEWHERE

    program.preflight(config)
    compilations.keep(config.cache_dir)
    if config.results:
        from mixjax.report import sections

        sections.check(config.results)  # before hours of training, not after
    before = (workdir / 'results.json').exists()
    progress = Progress(0, quiet=not processes.first())
    for one in config_lib.swept(config).values():
        progress.say(plan(one))
    try:
        results = loop.run(config, workdir, progress=progress, command=written(command))
    finally:
        progress.clear()
    if not processes.first():
        return 0
    if before and not progress.trained:
        print(f'{workdir} holds a finished run of this config; nothing was trained.')
        print('To train longer raise --config.steps; for another run use another --workdir.')
    show(results, workdir)
    if config.results:
        path = Path(command.flags['config'].partition(':')[0])
        name = (path.name if path.is_absolute() else str(path)).removesuffix('.py').removeprefix('configs/')
        # Other settings are other results, and have a section of their own.
        name = ', '.join([name, *(f'{key}={value}' for key, value in command.overrides if key not in ELSEWHERE)])
        sections.write(config.results, name, sections.results_section(name, workdir))
        print(f'table: {config.results}')
    return 0


def written(command: Command) -> str:
    """The command line as it may be recorded: relative paths; of one outside this folder `.../` and its end."""

    def relative(value: str) -> str:
        path = Path(value)
        if not path.is_absolute():
            return value
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else f'.../{path.name}'

    words = [f'--{name}={relative(value)}' for name, value in command.flags.items() if name not in CLUSTER]
    words += [f'--config.{key}={relative(value)}' for key, value in command.overrides]
    return shlex.join(['python', '-m', 'mixjax.main', *words])


def plan(config: Any) -> str:
    """One line: what is about to happen."""
    from mixjax.train import loop

    what = ', '.join(loop.order(config)) or config.method.name
    few = f'{config.target.per_class} labels per class of ' if config.target.per_class else ''
    where = config.target.dir or config.target.name
    return (
        f'{what} on {few}{where}: {config.num_seeds} seed{"s" * (config.num_seeds > 1)} '
        f'x {config.steps} steps, batch {config.batch_size}, {config.model.name}'
    )


def show(results: dict[str, Any], workdir: Path) -> None:
    """The pair table, the accuracy table and the path of the report."""
    from mixjax import report
    from mixjax.report import tables
    from mixjax.train import workdir as files

    if results['kind'] == 'sweep':
        for name, one in results['runs'].items():
            print(f'\n{name}\n{tables.accuracy_text(one)}')
    else:
        shown = set()
        for folder in [workdir, *(workdir / label for label in results.get('runs', {}))]:
            if (folder / 'pairs.json').exists():
                shown.add(tables.pairs_text(files.read_json(folder / 'pairs.json')))
        # Methods that choose alike have one table.
        print(''.join(f'\n{table}\n' for table in sorted(shown)), end='')
        print(f'\n{tables.accuracy_text(results)}')
    print(f'\nreport: {report.write(workdir)}')


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    # A CPU has no use for a search of accelerators, and its messages frighten people.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    try:
        command = parse(sys.argv[1:] if words is None else words)
        if 'help' in command.flags:
            print(__doc__)
            return 0
        if 'list' in command.flags:
            print(listing())
            return 0
        from mixjax import processes

        with processes.together():
            return train(command)
    except UserError as error:
        print(f'mixjax: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('mixjax: stopped; the same command goes on from the last checkpoint', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
