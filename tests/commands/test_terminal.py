"""How commands end and what they print: closed and full pipes, names that move the cursor, homes that do not exist."""

from __future__ import annotations

import csv
import io
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixjax.commands import predict
from mixjax.commands.cli import run_cli
from mixjax.commands.table import COMMANDS
from mixjax.errors import UserError
from mixjax.host import storage, terminal
from tests.support import fake
from tests.support.common import ROOT, command, environment

TURNED = 'cat\u202e% 2.9\u2066x\u200f'
EVIL = ['=HYPERLINK("x")', '+1', '-1', '@SUM(A1)', ' =1', '\uff1d1', 'a\x1b[2Jb', 'a\nb', 'a\rb', 'a\udcffb', TURNED]


# --- text -------------------------------------------------------------------------------------------------------------


def test_control_characters_are_escaped():
    assert terminal.safe('a\nb\tc \u0416 \u05d0\n') == 'a\nb\tc \u0416 \u05d0\n'
    assert terminal.safe('\r[##..] step 3\x1b[K') == '\r[##..] step 3\x1b[K'  # what the progress line is made of
    assert terminal.safe('\r    \r') == '\r    \r'
    for char in '\x00\x07\x08\x1b\x7f\x9b\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069':
        assert terminal.safe(f'a{char}b') == 'a?b', hex(ord(char))
    assert terminal.safe('report: good\rEVIL') == 'report: good?EVIL'
    assert terminal.safe('\x1b[2J\x1b[K') == '?[2J\x1b[K'


def answer() -> predict.Answer:
    rows = [{'file': name, 'label': name, 'top': [{'class': name, 'probability': 0.5}]} for name in EVIL]
    return predict.Answer(rows, 0, len(rows), {TURNED: 'why\x1b[2J'}, 0)


def test_predictions_on_a_terminal():
    said = predict.as_text(answer())
    assert all(char.isprintable() or char == '\n' for char in said)
    assert len(said.splitlines()) == len(EVIL) + len(predict.summary(answer()))
    assert 'cat?% 2.9?x?' in said and 'a?[2Jb' in said


def test_predictions_in_a_spreadsheet(tmp_path):
    predict.write_csv(str(tmp_path / 'x.csv'), answer())
    rows = list(csv.reader(io.StringIO((tmp_path / 'x.csv').read_bytes().decode())))
    assert len(rows) == len(EVIL) + 1
    for row in rows[1:]:
        for cell in (row[0], row[1], row[2]):
            assert cell.lstrip()[0] not in '=+-@\uff1d' and cell.isprintable(), cell
        assert row[3] == '0.500000'
    assert rows[1][0] == '\'=HYPERLINK("x")'


def test_a_csv_on_the_standard_output(tmp_path):
    done = run('from mixjax.commands import predict; predict.write_csv("/dev/stdout", predict.Answer([], 0, 0, {}, 0))')
    assert (done.returncode, done.stdout) == (0, 'file,label\n'), done.stderr


# --- streams ----------------------------------------------------------------------------------------------------------


def run(code: str, redirect: str = '', **more: str) -> subprocess.CompletedProcess:
    """A Python program in a process of its own, its output redirected as a shell does it."""
    words = ['bash', '-c', f'"$0" -c "$1" {redirect}; exit ${{PIPESTATUS[0]}}', sys.executable, code]
    return subprocess.run(words, env={**environment(), **more}, capture_output=True, text=True, timeout=120)


SAYS = """
import sys
from mixjax.commands.cli import run_cli
from mixjax.commands.table import COMMANDS
from mixjax.errors import UserError
def what():
    for _ in range(100):
        print('x' * 1000, flush=True)
    print('done', file=sys.stderr)
    if FAILS:
        raise UserError('wrong')
    return 0
sys.exit(run_cli(what))
"""


@pytest.mark.parametrize(
    ('redirect', 'fails', 'code', 'said'),
    [
        ('| true', 0, 0, 'done\n'),
        ('| head -1 >/dev/null', 0, 0, 'done\n'),
        ('>/dev/full', 0, 2, 'done\nmixjax: the output cannot be written: No space left on device\n'),
        ('>&-', 0, 0, 'done\n'),
        ('>&- 2>&-', 1, 2, ''),
        ('2>&- >/dev/null', 1, 2, ''),
        ('2>/dev/full >/dev/null', 1, 2, ''),
        ('>/dev/full 2>/dev/full', 0, 2, ''),
        ('2>&1 >/dev/null | true', 1, 2, ''),
        ('>&- <&- 2>/dev/null', 1, 2, ''),
    ],
)
def test_closed_and_full_streams(redirect, fails, code, said):
    """The command does its work to the end, and ends with its own code; no traceback, and nothing of Python's."""
    done = run(f'FAILS = {fails}{SAYS}', redirect)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    """Else what libraries print would be written into it."""
    code = (
        'import os, sys\nfrom mixjax.commands.cli import run_cli\n'
        f'def what():\n    return 10 + os.open({str(tmp_path / "file")!r}, os.O_CREAT | os.O_WRONLY)\n'
        'sys.exit(run_cli(what))'
    )
    assert run(code, '>&- 2>&- <&-').returncode > 12


def test_names_that_the_output_cannot_encode():
    code = (
        'import sys\nfrom mixjax.commands.cli import run_cli\n'
        'sys.exit(run_cli(lambda: print("k\\u00e4fer \\udcff") or 0))'
    )
    done = run(code, PYTHONIOENCODING='ascii:strict')
    assert (done.returncode, done.stdout, done.stderr) == (0, 'k\\xe4fer \\udcff\n', '')
    done = run(code, PYTHONIOENCODING='utf-8:strict')
    assert (done.returncode, done.stdout) == (0, 'k\u00e4fer \\udcff\n')


def test_messages_are_safe_and_paths_that_nothing_looked_at_are_told(capsys):
    def refuse():
        raise UserError('no \x1b[2J\u202e')

    def fail():
        os.stat('/' + 'x' * 300)

    assert run_cli(refuse) == 2 and capsys.readouterr().err == 'mixjax: no ?[2J?\n'
    assert run_cli(fail) == 2
    said = capsys.readouterr().err
    assert said.startswith('mixjax: /xxx') and said.endswith(': File name too long\n')

    def bug():
        raise OSError('of no file')

    with pytest.raises(OSError, match='of no file'):
        run_cli(bug)


@pytest.mark.parametrize('name', ['', *COMMANDS])
def test_help_to_a_full_disk_and_a_closed_pipe(name):
    line = ' '.join(command(*name.split(), '--help', module='mixjax'))
    done = subprocess.run(
        ['bash', '-c', f'{line} | true; echo ${{PIPESTATUS[0]}}; {line} >/dev/full; echo $?; {line} >&- 2>&-; echo $?'],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.split() == ['0', '2', '0'], (done.stdout, done.stderr)
    assert done.stderr == 'mixjax: the output cannot be written: No space left on device\n'


def test_report_to_a_full_stdout(tmp_path):
    fake.make_run(tmp_path / 'run', 'smile', [0.9])
    line = ' '.join(command('report', 'run', module='mixjax'))
    done = subprocess.run(
        ['bash', '-c', f'{line} > /dev/full'], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2 and (tmp_path / 'run' / 'report.html').exists() and 'Traceback' not in done.stderr


CLOSED = ['2>&-', '2>&1 >/dev/null | true', '> >(true) 2>&1']


@pytest.mark.parametrize('how', ['2>/dev/full', *(pytest.param(how, marks=pytest.mark.faults) for how in CLOSED)])
def test_sigterm_exits_with_42_with_any_stderr(how, tmp_path):
    long = [f'--config.{key}=4000' for key in ('steps', 'eval_every', 'checkpoint_every')]
    words = command(f'--config={ROOT}/tests/support/tiny_config.py', '--workdir=run', '--config.log_every=20', *long)
    shell = f'( echo $BASHPID > pid; exec {" ".join(words)} ) {how}; echo ${{PIPESTATUS[0]}} > code'
    process = subprocess.Popen(['bash', '-c', shell], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 150
        metrics = tmp_path / 'run' / 'metrics.jsonl'
        while not (metrics.exists() and metrics.read_text()) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(int((tmp_path / 'pid').read_text()), signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
    assert (tmp_path / 'code').read_text() == '42\n'
    assert [path for path in (tmp_path / 'run' / 'checkpoints' / '0').iterdir() if path.name.startswith('step_')]


# --- homes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('home', [None, '', '/does/not/exist', 'relative'])
def test_a_home_that_does_not_exist(home, tmp_path, monkeypatch):
    def nobody(_):
        raise KeyError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, 'getpwuid', nobody)
    for name in ('MIXJAX_CACHE', 'XDG_CACHE_HOME', 'HOME'):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv('HOME', home)
    with pytest.raises(UserError, match=r'~/runs/a: .*write the path without ~'):
        storage.to_place('~/runs/a')
    with pytest.raises(UserError, match=r'the cache has no folder: .*or name one with \$MIXJAX_CACHE or cache_dir'):
        storage.cache_folder()
    assert storage.cache_folder(str(tmp_path)) == tmp_path and storage.to_place('a~/b') == Path('a~/b')
    with pytest.raises(UserError, match='no home folder ~nobody-of-that-name is known'):
        storage.to_place('~nobody-of-that-name/x')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert storage.to_place('~/runs') == tmp_path / 'runs' and storage.cache_folder() == tmp_path / '.cache' / 'mixjax'
    assert not list(tmp_path.iterdir())


def test_tilde_is_expanded(tmp_path):
    env = {k: v for k, v in environment().items() if k not in ('MIXJAX_CACHE', 'XDG_CACHE_HOME')}
    words = command(f'--config={ROOT}/tests/support/tiny_config.py', '--workdir=run')
    done = subprocess.run(
        words, cwd=tmp_path, env={**env, 'HOME': str(tmp_path / 'none')}, capture_output=True, text=True
    )
    assert done.returncode == 2 and 'Traceback' not in done.stderr and done.stderr.count('\n') == 1, done.stderr
    assert 'the cache has no folder' in done.stderr and not list(tmp_path.iterdir())
