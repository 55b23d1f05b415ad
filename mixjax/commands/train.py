"""`mixjax train`: train networks as a config says, or continue a stopped run."""

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

from mixjax.commands import cli
from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.commands.table import CLUSTER
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.train import experiment
from mixjax.train.shared import preflight


def run(arguments: Arguments) -> int:
    """Train, or list what there is; returns the exit code."""
    if arguments['list']:
        import_modules(arguments['import'])
        print(listing())
        return 0
    from mixjax.host import processes

    with processes.end_together():
        return train(arguments)


def listing() -> str:
    """List everything that ships with mixjax, by name and with a line on each."""
    from mixjax import config, models
    from mixjax.config import files, method_registry
    from mixjax.data.datasets import resolve

    methods, wrappers = resources.files('mixjax.methods'), resources.files('mixjax.wrappers')
    own = [name for name in method_registry.names() if methods.joinpath(f'{name}.py').is_file()]
    about = {
        'configs': {name: first_line(files.folder().joinpath(f'{name}.py')) for name in config.shipped()},
        'methods': {name: first_line(methods.joinpath(f'{name}.py')) for name in own},
        'wrappers, around methods; by another name than these, a method too': {
            name: first_line(wrappers.joinpath(f'{name}.py')) for name in method_registry.names(method_registry.WRAPPER)
        },
        'data sets': {name: resolve.title(name) for name in resolve.names()},
    }
    lines = [
        '\n'.join([f'{title}:', *(f'  {name:20} {text}' for name, text in rows.items())])
        for title, rows in about.items()
    ]
    families: dict[str, list[str]] = {}
    for name in models.names():
        families.setdefault(models.family(name) or 'your own', []).append(name)
    networks = [
        textwrap.fill(f'{family}: {", ".join(names)}', 78, initial_indent='  ', subsequent_indent='    ')
        for family, names in families.items()
    ]
    return '\n\n'.join([*lines, '\n'.join(['networks, by family:', *networks])])


def first_line(file: Any) -> str:
    """The first line of a module's docstring, without an address or what breaks off; nothing is imported."""
    text = (ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '').partition('\n')[0]
    return re.sub(r' \([^()]*$', '', re.sub(r',? \(?https?://\S*$', '', text)).rstrip('.,:')


def train(arguments: Arguments) -> int:
    """Run what the flags say, then print the tables and write the report."""
    from mixjax.config import overrides, validate
    from mixjax.host import cluster, signals

    for name in ('config', 'workdir'):
        if not validate.nameable(arguments[name]):
            raise UserError(f'--{name} must be a path, not {overrides.short(arguments[name])}')
    note = cluster.join(arguments.given)
    if note:
        print(f'mixjax: {note}', file=sys.stderr)
    with signals.handle_sigterm():
        return train_and_report(arguments)


def train_and_report(arguments: Arguments) -> int:
    """`train`, once the processes have met."""
    from mixjax import config as config_lib
    from mixjax.host import processes

    import_modules(arguments['import'])
    config = config_lib.load(arguments['config'], arguments.overrides)
    workdir = storage.resolve_links(storage.reachable(arguments['workdir']))

    from mixjax.host import compile_cache
    from mixjax.host.progress import Progress
    from mixjax.rundir.files import ELSEWHERE

    preflight(config)
    compile_cache.enable(config.cache_dir)
    if config.results:
        from mixjax.report import sections

        sections.check(config.results, workdir)  # before hours of training, not after
    if config.analyse:
        from mixjax.commands import analyse

        analyse.of_config(config.analyse, workdir)  # before hours of training, not after
    before = (workdir / 'results.json').exists()
    progress = Progress(0, quiet=not processes.first())
    accept = arguments['changed-code'] or 'refuse'
    results = experiment.run(config, workdir, progress=progress, command=command_line(arguments), changed_code=accept)
    if not processes.first():
        return 0
    if before and not progress.trained:
        print(f'{workdir} holds a finished run of this config; nothing was trained.')
        print('To train longer raise --config.steps; for another run use another --workdir.')
    if config.calibrate:
        from mixjax.commands import calibrate

        calibrate.of_config(config.calibrate, workdir, results, bool(progress.trained))
    if config.analyse:
        measure(config.analyse, workdir, bool(progress.trained))
    show(results, workdir)
    if config.results:
        path = Path(arguments['config'].partition(':')[0])
        name = (path.name if path.is_absolute() else str(path)).removesuffix('.py').removeprefix('configs/')
        # Other settings give other results, which get a separate section.
        name = ', '.join([name, *(f'{key}={value}' for key, value in arguments.overrides if key not in ELSEWHERE)])
        sections.write(config.results, name, sections.results_section(name, workdir))
        print(f'table: {config.results}')
    return 0


def measure(what: str, workdir: Place, trained: bool) -> None:
    """Measure what `config.analyse` asks for; of a finished run that was given again, only what is missing."""
    from mixjax.commands import analyse
    from mixjax.host import processes

    if processes.count() > 1:
        print(f'config.analyse is for one process: mixjax analyse --workdir={workdir} {what}')
        return
    analyse.measure(analyse.of_config(what, workdir), again=trained)


def command_line(arguments: Arguments) -> str:
    """The command line as it may be recorded: relative paths; of one outside this folder `.../` and its end."""

    def relative(value: str) -> str:
        path = Path(value)
        if not path.is_absolute():
            return value
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else f'.../{path.name}'

    of_this_process = {flag.name for flag in CLUSTER}
    words = [f'--{name}={relative(text)}' for name, text in arguments.given.items() if name not in of_this_process]
    words += [f'--config.{key}={relative(value)}' for key, value in arguments.overrides]
    return shlex.join(['mixjax', 'train', *words])


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
    """`mixjax train WORDS`; returns the exit code. words: those of the process where none are given."""
    return cli.run('train', sys.argv[1:] if words is None else words)
