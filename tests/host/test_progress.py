import contextlib
import io
import os
import pty
import subprocess
import sys

import pytest

from mixjax import train
from mixjax.host import progress as progress_lib
from mixjax.host.progress import Progress, duration
from tests.support import tiny_config
from tests.support.common import ROOT, environment


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0 s'), (59.6, '1 min 00 s'), (125, '2 min 05 s'), (7800, '2 h 10 min'), (-3, '0 s')]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_lib.time, 'monotonic', lambda: now[0])
    return now


def test_plain_lines_are_rate_limited(clock):
    out = io.StringIO()
    progress = Progress(100, stream=out, label='a method')
    for step in range(1, 31):
        clock[0] += 1
        progress.step(0, step, 50, 0.5 if step == 20 else None, 1)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and '\r' not in out.getvalue()
    assert lines[-1] == 'a method  seed 0  step 21/50  loss 0.500  1 min 19 s left'


def test_one_moving_line_on_a_terminal(clock):
    out = Terminal()
    progress = Progress(40, stream=out, label='m')
    for step in range(1, 21):
        clock[0] += 1
        progress.step(3, step, 40, 1.0, 1)
    assert '\n' not in out.getvalue()
    assert (
        out.getvalue().split('\r')[-1].startswith('[##########..........] m  seed 3  step 20/40  loss 1.000  20 s left')
    )
    progress.say('done')
    assert out.getvalue().endswith('\rdone\n')


def test_steps_of_a_checkpoint_are_not_counted_into_the_speed(clock):
    out = io.StringIO()
    progress = Progress(1000, stream=out, label='m')
    progress.skip(900)
    for step in range(901, 922):
        clock[0] += 1
        progress.step(0, step, 1000, 1.0, 1)
    assert out.getvalue().splitlines()[-1].endswith('1 min 19 s left')
    assert progress.trained == 21


def test_quiet():
    out = io.StringIO()
    progress = Progress(10, stream=out, quiet=True)
    progress.say('x')
    progress.step(0, 1, 10, 1.0, 1)
    assert out.getvalue() == ''


# --- a whole run ----------------------------------------------------------------------------------------------------

RUN = f"""
import sys
from mixjax import train
from {__name__} import config

print('begun', flush=True)
train.run(config(), sys.argv[1])
print('ended', flush=True)
"""


def config():
    out = tiny_config.get_config('mixup')
    out.devices, out.steps = 1, 10
    return out


def test_python_run_prints_lines_without_a_terminal(tmp_path, capsys):
    """As in a notebook, whose output is none."""
    train.run(config(), tmp_path / 'run')
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert '\r' not in said.out and not said.err
    wanted = [
        'mixup on synthetic: 1 seed x 10 steps, batch 16, tiny',
        'loading the data and the network',
        'mixup: preparing, and trying a step',
        'mixup  seed 0  preparing',
        'mixup  seed 0  compiling the training step',
        'mixup  seed 0  step 1/10',
    ]
    at = [next((i for i, line in enumerate(lines) if line.startswith(text)), None) for text in wanted]
    assert None not in at and at == sorted(at), said.out
    assert lines[-1].startswith('mixup: ') and '% correct' in lines[-1]
    assert len(lines) <= 12  # and no line for each step


def test_python_run_may_be_silent(tmp_path, capfd):
    """Nor does anything below Python say a word."""
    train.run(config(), tmp_path / 'run', progress=False)
    assert capfd.readouterr() == ('', '')


def test_python_run_updates_one_line_on_a_terminal(tmp_path):
    ours, its = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, '-c', RUN, str(tmp_path / 'run')],
        cwd=ROOT,
        env=environment(),
        stdout=its,
        stderr=subprocess.PIPE,
    )
    os.close(its)
    said = b''
    with contextlib.suppress(OSError):  # Linux ends a terminal whose other side is gone with an error
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    assert child.wait(300) == 0, child.stderr.read()
    child.stderr.close()
    text = said.decode().replace('\r\n', '\n')
    assert '\rmixup  seed 0  compiling the training step' in text
    assert '\r[' in text and 'step 10/10' in text
    stays = [line.split('\r')[-1] for line in text.strip().split('\n')]
    assert stays[0] == 'begun' and stays[-1] == 'ended' and stays[-2].startswith('mixup: ') and len(stays) <= 6


def test_frequent_phases_are_rate_limited(clock):
    out = io.StringIO()
    progress = Progress(10, stream=out, label='m')
    for _ in range(30):
        clock[0] += 1
        progress.phase('evaluating', often=True)
    progress.phase('compiling')
    assert out.getvalue() == 'm  evaluating\n' * 3 + 'm  compiling\n'


def test_a_bar_of_bytes_begins_where_an_earlier_one_ended(clock, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    bar = progress_lib.Bar(300_000_000, 'weights x', unit='MB', scale=10**6, done=100_000_000)
    clock[0] += 10
    bar.add(50_000_000)
    bar.close()
    assert 'weights x, 150 of 300 MB, 30 s left' in capsys.readouterr().err
