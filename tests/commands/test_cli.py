"""The command `mixjax`: the table of commands, the parser that reads it, and its help."""

from __future__ import annotations

import configparser
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mixjax
from mixjax.commands import cli
from mixjax.commands.parser import WIDTH, Arguments, Command, Flag, Positional, help_text, names, parse
from mixjax.commands.table import COMMANDS, TRAIN
from mixjax.errors import UserError
from tests.support import fake
from tests.support.common import ROOT, call, environment
from tests.support.tree import listed, text

TOY = Command(
    'toy', 'does nothing', 'nowhere:run', ('mixjax toy a --name=x',),
    (
        Flag('name', 'who', 'NAME', required=True),
        Flag('count-of', 'how many', 'N', int, 3, least=1),
        Flag('kind', 'which', 'KIND', choices=('red', 'green'), default='red'),
        Flag('parts', 'with commas', 'PARTS', names, ('all',)),
        Flag('import', 'modules', 'MODULE', repeated=True, default=()),
        Flag('fast', 'a switch'),
        Flag('list', 'a switch that needs nothing else', alone=True),
    ),
    Positional('FILE', 'a file', 1, 2),
    settings=True,
)  # fmt: skip
BARE = Command('bare', 'takes no words', 'nowhere:run', ('mixjax bare',), (Flag('fast', 'a switch'),))
PAIR = TOY._replace(positional=Positional('SHELL', 'a shell', 1, 1, choices=('bash', 'zsh')))


def toy(line: str, command: Command = TOY) -> Arguments:
    return parse(command, shlex.split(line))


# --- the parser -------------------------------------------------------------------------------------------------------


def test_defaults():
    arguments = toy('a --name=x')
    assert arguments.values == {
        'name': 'x', 'count-of': 3, 'kind': 'red', 'parts': ('all',), 'import': (), 'fast': False, 'list': False,
    }  # fmt: skip
    assert (arguments.positional, arguments.overrides, arguments.given) == (['a'], [], {'name': 'x'})


@pytest.mark.parametrize('line', ['--count-of=7', '--count-of 7', '--count_of=7', '--count_of 7'])
def test_one_flag_in_its_spellings(line):
    arguments = toy(f'a {line} --name=x')
    assert arguments['count-of'] == 7 and arguments.given == {'count-of': '7', 'name': 'x'}


def test_values_of_every_kind():
    arguments = toy('--fast a --kind green --parts=b,,c --name=x')
    assert (arguments['fast'], arguments['kind'], arguments['parts']) == (True, 'green', ('b', 'c'))
    assert toy('a --name=x --import=m,n --import o')['import'] == ('m', 'n', 'o')
    assert toy('a --name=x --import=m --import o').given['import'] == 'm,o'
    assert toy('a --name=-1 --count-of=1')['name'] == '-1'
    assert toy('a --name -1')['name'] == '-1'  # no flag begins with one dash
    assert toy('a --name=a=b')['name'] == 'a=b'


def test_settings_keep_their_order_and_their_underscores():
    arguments = toy('a --config.eval_every=4 --name=x --config.seed 3 --config.eval_every=5 --config.analyse=--what=x')
    assert arguments.overrides == [('eval_every', '4'), ('seed', '3'), ('eval_every', '5'), ('analyse', '--what=x')]
    assert arguments.given == {'name': 'x'}


def test_after_two_dashes_no_word_is_a_flag():
    assert toy('--name=x -- -1.png --fast').positional == ['-1.png', '--fast']
    assert toy('--name=x a -').positional == ['a', '-']


def test_a_flag_that_stands_alone_needs_nothing_else():
    assert toy('--list')['list'] is True


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ('a', '--name is missing (see mixjax toy --help)'),
        ('a --name=', '--name is missing (see mixjax toy --help)'),
        ('--name=x', 'give at least one FILE (see mixjax toy --help)'),
        ('a --nmae=x', "unknown flag --nmae; did you mean 'name'? (see mixjax toy --help)"),
        ('a --hlep', "unknown flag --hlep; did you mean 'help'? (see mixjax toy --help)"),
        ('a --count_fo=3', "unknown flag --count_fo; did you mean 'count-of'? (see mixjax toy --help)"),
        ('a -name x', 'unknown flag -name'),
        ('a --config=x', 'unknown flag --config'),
        ('a --name', '--name needs a value: --name=VALUE'),
        ('a --name --fast', '--name needs a value: --name=VALUE'),
        ('a --config.seed', '--config.seed needs a value: --config.seed=VALUE'),
        ('a --fast=1', '--fast takes no value'),
        ('a --name=x --name=y', '--name is given twice'),
        ('a --count-of=1 --count_of=1', '--count-of is given twice'),
        ('a --name=x --count-of=two', "--count-of must be a whole number, not 'two'"),
        ('a --name=x --count-of=1e3', "--count-of must be a whole number, not '1e3'"),
        ('a --name=x --count-of=٣', '--count-of must be a whole number'),
        (f'a --name=x --count-of={"9" * 5000}', '--count-of must be a whole number'),
        ('a --name=x --count-of=0', '--count-of must be at least 1, not 0'),
        ('a --name=x --kind=gren', "--kind must be red or green, not 'gren'; did you mean 'green'?"),
    ],
)
def test_wrong_words_are_one_sentence(line, sentence):
    with pytest.raises(UserError) as found:
        toy(line)
    assert str(found.value).startswith(sentence) and len(str(found.value)) < 200 and '\n' not in str(found.value)


def test_words_that_belong_to_no_flag():
    for line, command, sentence in (
        ('stray', BARE, "unexpected 'stray': settings are written --name=value (see mixjax bare --help)"),
        ('--config.seed=1', BARE, 'unknown flag --config.seed (see mixjax bare --help)'),
        ('--name=x', PAIR, 'give one SHELL, not 0 (see mixjax toy --help)'),
        ('--name=x bash zsh', PAIR, 'give one SHELL, not 2 (see mixjax toy --help)'),
        ('--name=x tcsh', PAIR, "SHELL must be bash or zsh, not 'tcsh'"),
    ):
        with pytest.raises(UserError) as found:
            toy(line, command)
        assert str(found.value) == sentence


def test_flags_are_checked_together():
    def check(arguments: Arguments) -> None:
        if arguments['fast'] and arguments['kind'] == 'green':
            raise UserError('green is slow')

    assert toy('a --name=x --fast', TOY._replace(check=check))['fast']
    with pytest.raises(UserError, match='green is slow'):
        toy('a --name=x --fast --kind=green', TOY._replace(check=check))


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('command', COMMANDS.values(), ids=lambda command: command.name)
def test_a_command_of_the_table_is_whole(command):
    """It has a function; its examples are in its own words; its help names every flag within 80 columns."""
    module, _, function = command.run.partition(':')
    assert list(inspect.signature(getattr(importlib.import_module(module), function)).parameters) == ['arguments']
    taken = [flag.name for flag in command.flags]
    assert len(set(taken)) == len(taken) and 'help' not in taken
    for flag in command.flags:
        assert re.fullmatch('[a-z]+(-[a-z]+)*', flag.name) and flag.help and not flag.help.endswith('.')
        assert flag.default in flag.choices or not flag.choices or flag.default == ''
    for line in command.examples:
        words = shlex.split(re.sub(r'.*\$\((.*)\).*|(.*)', r'\1\2', line).partition(' >')[0], comments=True)
        assert words[:2] == ['mixjax', command.name]
        parse(command, words[2:])
    said = help_text(command)
    assert max(map(len, said.splitlines())) <= WIDTH == 80
    for flag in command.flags:
        assert f'\n  {flag.usage}' in said
    assert ('--config.KEY=VALUE' in said) == command.settings
    assert '\nexample' in said and '\nExit codes: 0 ' in said and said.count('\n\n\n') == 0


def test_the_page_has_the_table():
    page = (ROOT / 'docs/commands.md').read_text()
    for command in COMMANDS.values():
        assert f'| `mixjax {command.name}` | {command.summary} |' in page


def test_modules_are_imported_by_every_command_that_loads_a_config_or_a_network():
    assert {command.name for command in COMMANDS.values() if any(flag.name == 'import' for flag in command.flags)} == {
        'best', 'train', 'predict', 'serve', 'export', 'push', 'grid', 'plan', 'analyse', 'calibrate', 'merge',
    }  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_installed_command_is_this_function():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert setup['options.entry_points']['console_scripts'].strip() == 'mixjax = mixjax.commands.cli:main'
    # Else setuptools passes over it.
    assert 'scripts' in tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['dynamic']


def test_overview_and_version(capsys):
    assert cli.main(['--help']) == 0
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) <= 80
    for command in COMMANDS.values():
        assert re.search(rf'^  {command.name} +{re.escape(command.summary)}$', whole, re.MULTILINE)
    assert cli.main([]) == 2 and capsys.readouterr().out == whole
    assert cli.main(['-h']) == 0 and capsys.readouterr().out == whole
    assert cli.main(['--version']) == 0 and capsys.readouterr().out == f'mixjax {mixjax.__version__}\n'


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command(name, capsys):
    assert cli.main([name, '--no-such-flag', '-h']) == 0  # whatever else is there
    assert capsys.readouterr().out == help_text(COMMANDS[name]) + '\n'


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['trian'], "there is no command 'trian'; did you mean 'train'? (see mixjax --help)"),
        (['--config=quickstart', '--workdir=x'], '--config=quickstart: a command comes first, such as mixjax train'),
        (['predict', '--workdir=x'], 'give images or folders, or --test'),
        (['predict', '--workdir=x', 'a.png', '--test'], 'give images or folders, or --test'),
        (['predict', 'a.png'], '--workdir is missing (see mixjax predict --help)'),
        (['report'], 'give at least one WORKDIR'),
        (['report', 'a', '--config.seed=1'], '--config.seed=1 goes with --table'),
        (['report', 'a', 'b', '--table=x'], '--table takes one folder, that of all runs of the table, not 2'),
        (['report', 'a', '--table='], "unknown table ''"),
        (['grid', 'digits/grid', '--run='], "--run must be a whole number from 0 to 3, not ''"),
        (['grid', 'digits/grid', '--count', '--import=no_such_module'], "there is no module 'no_such_module'"),
        (['plan', '--config=quickstart', '--topology=cpu:1', '--import=no_such_module'], "module 'no_such_module'"),
        (['train', '--config=x', '--workdir=y', '--changed-code=yes'], '--changed-code must be accept, or left out'),
        (['train', '--config=x', '--workdir=y', '--distributed=of'], '--distributed must be auto, on or off'),
        (['completion'], 'give one SHELL, not 0'),
        (['completion', 'tcsh'], "SHELL must be bash, zsh or fish, not 'tcsh'"),
    ],
)
def test_wrong_commands_end_in_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.make_run(tmp_path / 'a', 'smile', [0.9])
    assert cli.main(words) == 2
    out, error = capsys.readouterr()
    told = error.splitlines()[-1]
    assert told.startswith('mixjax: ') and sentence in told and not out and 'Traceback' not in error


def test_python_m_mixjax_is_the_command_and_mixjax_main_is_train(tmp_path):
    words = ['--config=quickstart', '--wrkdir=x']
    by_name, by_module = call(tmp_path, 'train', *words, module='mixjax'), call(tmp_path, *words)
    assert (by_name.returncode, by_name.stderr) == (by_module.returncode, by_module.stderr) == (
        2, "mixjax: unknown flag --wrkdir; did you mean 'workdir'? (see mixjax train --help)\n",
    )  # fmt: skip
    assert call(tmp_path, '--version', module='mixjax').stdout == f'mixjax {mixjax.__version__}\n'
    assert call(tmp_path, '--help').stdout == help_text(TRAIN) + '\n'


@pytest.mark.parametrize(
    ('words', 'code'),
    [
        (['--help'], 0), (['--version'], 0), ([], 2), (['nothing'], 2), (['completion', 'bash'], 0),
        *(([name, '--help'], 0) for name in COMMANDS),
        *(([name, '--no-such-flag'], 2) for name in COMMANDS),
        (['predict', '--workdir=x'], 2), (['grid', 'x'], 2), (['analyse', '--workdir=x', '--what=nothing'], 2),
    ],
)  # fmt: skip
def test_help_and_refusals_import_neither_jax_nor_numpy(words, code):
    script = (
        'import json, sys\nfrom mixjax.commands.cli import main\n'
        'code = main(sys.argv[1:])\nprint(json.dumps([code, *sys.modules]), file=sys.stderr)'
    )
    done = subprocess.run([sys.executable, '-c', script, *words], env=environment(), capture_output=True, text=True)
    got, *modules = json.loads(done.stderr.splitlines()[-1])
    assert got == code
    assert not {'jax', 'numpy', 'flax', 'ml_collections', 'mixjax.config', 'mixjax.report'} & set(modules)


def test_a_module_of_ones_own_for_a_grid_and_a_plan(tmp_path, monkeypatch, capsys):
    """A network that only the module of `--import` registers."""
    from mixjax import models

    (tmp_path / 'of_my_own.py').write_text(
        'from mixjax import models\nmodels.BACKBONES["my_glyphnet"] = models.BACKBONES["glyphnet"]\n'
    )
    (tmp_path / 'mine.py').write_text(
        'from mixjax.config import read\n\n\ndef grid():\n    return ["1", "2"]\n\n\ndef get_config(argument):\n'
        '    config = read("quickstart")\n    config.compare, config.baseline = {}, ""\n'
        '    config.model.name, config.model.weights, config.method.name = "my_glyphnet", "", "mixup"\n'
        '    config.target.per_class = int(argument)\n    return config\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(['grid', 'mine.py', '--count']) == 2
    assert "unknown network 'my_glyphnet'" in capsys.readouterr().err
    try:
        assert cli.main(['grid', 'mine.py', '--count', '--import=of_my_own']) == 0
        assert capsys.readouterr().out == '2\n'
        words = ['--config=mine.py:1', '--topology=cpu:1', '--config.num_seeds=1', '--json', '--import=of_my_own']
        assert cli.main(['plan', *words]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 1
    finally:
        models.BACKBONES.pop('my_glyphnet', None)
        sys.modules.pop('of_my_own', None)


# --- no file says it in another way -----------------------------------------------------------------------------------

STALE = {
    'a module in place of a command': r'python[\d.]* -m mixjax\.(?!main\b)',
    'a module that is started by its name': r"""['"]-m['"], *['"]mixjax\.(?!main['"])""",
    'a module of a shell': r'(?:\$PYTHON"?|\$\(PY\)) -m mixjax\.',
    'a module of the commands in a text': r'`mixjax\.commands\.\w+(?!\.| import)[^`]*`',
    'a command of old': r'mixjax[ .](?:pods|prepare_data)\b',
    'a flag of old': r'--(?:data_dir=|skip_corrupt|allow_counts)',
}
HERE = Path(__file__).resolve()


@pytest.mark.parametrize('what', STALE)
def test_no_file_shows_a_form_of_old(what):
    found = []
    for path in listed():
        source = None if path == HERE or path.name == 'CHANGELOG.md' else text(path)
        for number, line in enumerate((source or '').splitlines(), 1):
            if re.search(STALE[what], line):
                found.append(f'{path.relative_to(ROOT)}:{number}: {line.strip()}')
    assert not found


def test_forms_of_old_are_found():
    module, argument, shell, commands, old, flag = STALE.values()
    for pattern, line in (
        (module, 'python -m mixjax.grid FILE'), (module, 'python3.12 -m mixjax.commands.report'),
        (argument, "[sys.executable, '-m', 'mixjax.predict', x]"), (shell, 'srun "$PYTHON" -m mixjax.main "$@"'),
        (commands, 'see `mixjax.commands.grid`'), (old, 'mixjax.pods'), (flag, '--data_dir=x'),
    ):  # fmt: skip
        assert re.search(pattern, line), line
    for line in (
        'python -m mixjax.main --config=x',
        "'-m', 'mixjax.main'",
        '"$PYTHON" -m mixjax train',
        '--config.data_dir=x',
    ):
        assert not any(re.search(pattern, line) for pattern in STALE.values()), line
