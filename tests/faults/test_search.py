"""A search that is killed again and again ends with the network of one that was not."""

import json
import subprocess
import time

import numpy as np
import pytest

from tests.support.common import command, environment
from tests.support.digits import write_digits

pytestmark = pytest.mark.faults


def test_five_kills_change_nothing(tmp_path):
    write_digits(tmp_path / 'photos', 10, 4)
    settings = ['--config.devices=1', '--config.search.folds=3', '--config.search.repeats=1']
    words = command('best', 'photos', '--minutes=3', '--networks=glyphnet', '--methods=probe,lpft', *settings,
                    module='mixjax')  # fmt: skip
    random, kills = np.random.RandomState(0), 0
    while kills < 5:
        process = subprocess.Popen(
            [*words, '--workdir=killed'], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
        )
        # Each life is long enough to come further than the one before, and ends anywhere.
        try:
            process.wait(timeout=12 + 8 * kills + 4 * random.rand())
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        if process.wait() == 0:
            break  # it was quicker than the kills
    done = subprocess.run([*words, '--workdir=killed'], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kills >= 3
    # The same plan, from its beginning to its end.
    whole = tmp_path / 'whole'
    whole.mkdir()
    plan = json.loads((tmp_path / 'killed' / 'plan.json').read_text())
    assert plan['plan']['rungs'], 'no trial was planned, and nothing is tested'
    (whole / 'plan.json').write_text(json.dumps(plan))
    began = time.monotonic()
    done = subprocess.run([*words, '--workdir=whole'], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 1.1 * 180
    for name in ('model.safetensors', 'model.json', 'best.npz'):
        assert (tmp_path / 'killed' / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = (json.loads((tmp_path / place / 'best.json').read_text()) for place in ('killed', 'whole'))
    for key in ('winner', 'expected', 'lead', 'calibration', 'doubtful'):
        assert without_seconds(one[key]) == without_seconds(other[key]), key


def without_seconds(found):
    return {key: value for key, value in found.items() if key != 'seconds'} if isinstance(found, dict) else found
