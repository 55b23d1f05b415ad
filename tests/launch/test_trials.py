"""Seeds side by side cost what one costs: measured, each on a core of its own. Alone, as nothing else may be timed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support.common import ROOT, environment

pytestmark = pytest.mark.timed
ROUNDS = 12


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_two_seeds_on_two_cores_take_the_time_of_one_on_one():
    """At most 1.3 times; round by round in turn. Other work only adds to it, so one quiet series of three will do."""
    every = [
        subprocess.Popen(
            [sys.executable, '-m', 'tests.launch.trials', str(count)], cwd=ROOT, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for count in (1, 2)
    ]  # fmt: skip

    def seconds(process: subprocess.Popen) -> float:
        process.stdin.write('go\n')
        process.stdin.flush()
        return float(process.stdout.readline())

    found = []
    try:
        for process in every:
            seconds(process)  # compiled
        while len(found) < 3 and not (found and min(found) <= 1.3):
            times = np.array([[seconds(process) for process in every] for _ in range(ROUNDS)])
            found.append(float(np.median(times[:, 1] / times[:, 0])))
    finally:
        for process in every:
            process.stdin.close()
            process.stdout.close()
            process.wait(60)
    print(f'2 seeds on 2 cores to 1 on 1: {", ".join(f"{ratio:.2f}" for ratio in found)}')
    assert min(found) <= 1.3, found
