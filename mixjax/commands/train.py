"""Train: `python -m mixjax.main --config=configs/quickstart.py --workdir=runs/quickstart`.

  --config=FILE[:smoke]    a config file, or the name of a shipped one (--list names them);
                           :smoke tries it for two steps on made-up images, without data or weights
  --workdir=DIR            where results go, a folder or gs://BUCKET/FOLDER; the same command again continues a
                           run that was stopped
  --config.KEY=VALUE       change one setting, for example --config.seed=7 --config.optim.lr=0.001
  --changed-code=accept    go on with a run although the source of your own method has changed since it began
  --import=MODULE          import a module first, such as one with a network of yours; repeated, or with commas
  --list                   the shipped configs, methods, networks and data sets
  --help                   this text

Several processes, each with devices of its own, train one run: the same command in each of them.
  --distributed=auto       as the cluster says that starts them (Cloud TPU, Slurm, Open MPI, Kubernetes);
                           on: it is an error if there is none; off: each process is a run of its own
  --coordinator=HOST:PORT --processes=N --process=I
                           without such a cluster: where process 0 listens, how many there are, which one this is

Exit codes: 0 done, 2 wrong input (one message says what to do), 3 another process trains in that work directory,
42 told to stop by SIGTERM and saved, 130 interrupted (of the last two, run it again to go on).
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mixjax.commands.cli import Command, carry_out, import_modules, parse
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.train import experiment
from mixjax.train.shared import preflight

CLUSTER = ('distributed', 'coordinator', 'processes', 'process')
FLAGS = ('config', 'workdir', 'changed-code', *CLUSTER, 'import', 'list', 'help')
SWITCHES = ('list', 'help')
GO_ON = 'the same command goes on from the last checkpoint'


def asked(words: Sequence[str]) -> Command:
    """What a command line of this command says."""
    return parse(words, FLAGS, SWITCHES, repeated=('import',))


def listing() -> str:
    """What ships with mixjax, by name and with a line on each."""
    from mixjax import config, models
    from mixjax.config import files, method_registry
    from mixjax.data.datasets import resolve

    methods, wrappers = resources.files('mixjax.methods'), resources.files('mixjax.wrappers')
    about = {
        'configs': {name: first_line(files.folder().joinpath(f'{name}.py')) for name in config.shipped()},
        'methods': {name: first_line(methods.joinpath(f'{name}.py')) for name in method_registry.names()},
        'wrappers, around methods': {
            name: first_line(wrappers.joinpath(f'{name}.py')) for name in method_registry.names(method_registry.WRAPPER)
        },
        'data sets': {name: resolve.title(name) for name in resolve.names()},
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


def train(command: Command) -> int:
    """Run what the flags say, then print the tables and write the report."""
    from mixjax.config import overrides, validate
    from mixjax.host import cluster, signals

    for name in ('config', 'workdir'):
        if not command.flags.get(name):
            raise UserError(f'--{name} is missing (see --help)')
        if not validate.nameable(command.flags[name]):
            raise UserError(f'--{name} must be a path, not {overrides.short(command.flags[name])}')
    if command.flags.get('changed-code', 'accept') != 'accept':
        raise UserError(f'--changed-code={overrides.short(command.flags["changed-code"])} must be accept, or left out')
    note = cluster.join(command.flags)
    if note:
        print(f'mixjax: {note}', file=sys.stderr)
    with signals.heard():
        return carried_out(command)


def carried_out(command: Command) -> int:
    """`train`, once the processes have met."""
    from mixjax import config as config_lib
    from mixjax.host import processes

    import_modules([command.flags.get('import', '')])
    config = config_lib.load(command.flags['config'], command.overrides)
    workdir = storage.real(storage.given(command.flags['workdir']))

    from mixjax.host import compile_cache
    from mixjax.host.progress import Progress
    from mixjax.rundir.files import ELSEWHERE

    preflight(config)
    compile_cache.keep(config.cache_dir)
    if config.results:
        from mixjax.report import sections

        sections.check(config.results, workdir)  # before hours of training, not after
    if config.analyse:
        from mixjax.commands import analyse

        analyse.of_config(config.analyse, workdir)  # before hours of training, not after
    before = (workdir / 'results.json').exists()
    progress = Progress(0, quiet=not processes.first())
    accept = command.flags.get('changed-code', 'refuse')
    results = experiment.run(config, workdir, progress=progress, command=written(command), changed_code=accept)
    if not processes.first():
        return 0
    if before and not progress.trained:
        print(f'{workdir} holds a finished run of this config; nothing was trained.')
        print('To train longer raise --config.steps; for another run use another --workdir.')
    if config.analyse:
        measure(config.analyse, workdir, bool(progress.trained))
    show(results, workdir)
    if config.results:
        path = Path(command.flags['config'].partition(':')[0])
        name = (path.name if path.is_absolute() else str(path)).removesuffix('.py').removeprefix('configs/')
        # Other settings are other results, and have a section of their own.
        name = ', '.join([name, *(f'{key}={value}' for key, value in command.overrides if key not in ELSEWHERE)])
        sections.write(config.results, name, sections.results_section(name, workdir))
        print(f'table: {config.results}')
    return 0


def measure(what: str, workdir: Place, trained: bool) -> None:
    """What `config.analyse` asks for; of a finished run that was given again, unless it is there."""
    from mixjax.commands import analyse
    from mixjax.host import processes

    if processes.count() > 1:
        print(f'config.analyse is for one process: python -m mixjax.commands.analyse --workdir={workdir} {what}')
        return
    analyse.run(analyse.of_config(what, workdir), again=trained)


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


def show(results: dict[str, Any], workdir: Place) -> None:
    """The pair table, the accuracy table and the path of the report."""
    from mixjax import report
    from mixjax.report import tables
    from mixjax.rundir import files

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

    def what() -> int:
        command = asked(sys.argv[1:] if words is None else words)
        if 'help' in command.flags:
            print(__doc__)
            return 0
        if 'list' in command.flags:
            import_modules([command.flags.get('import', '')])
            print(listing())
            return 0
        from mixjax.host import processes

        with processes.together():
            return train(command)

    return carry_out(what, GO_ON)


if __name__ == '__main__':
    sys.exit(main())
