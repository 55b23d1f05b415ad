import io

import pytest

from mixjax.train import progress as progress_lib
from mixjax.train.progress import Progress, duration


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


def test_plain_lines_now_and_then(clock):
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
