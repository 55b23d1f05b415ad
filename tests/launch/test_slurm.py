"""The Slurm files with a real Slurm: a job of two processes and an array, each stopped once and requeued."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.common import ROOT, environment
from tests.launch import slurm as slurm_lib

pytestmark = [
    pytest.mark.launch,
    pytest.mark.skipif(
        not (shutil.which('apt-get') and shutil.which('dpkg')),
        reason='Slurm comes as Debian packages: no apt-get, dpkg',
    ),
]
LAUNCH = ROOT / 'launch'
TINY = ['--config.num_seeds=1', '--config.steps=80', '--config.checkpoint_every=20', '--config.log_every=20']

# What stands for mixjax.main: it is started in the same way, finds the other processes, and waits to be stopped once.
CHECK = """
import os, signal, sys, time
from pathlib import Path

import jax

jax.config.update('jax_cpu_collectives_implementation', None)  # would listen on the host's own address
jax.distributed.initialize()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))  # instead of the one that jax installs, which only takes a note
start = int(os.environ.get('SLURM_RESTART_COUNT', 0))
told = [start, jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count(), sys.argv[1:]]
Path(f'told-{start}-{jax.process_index()}').write_text(repr(told))
while start == 0:
    time.sleep(0.1)
"""


@pytest.fixture(scope='module')
def slurm(pytestconfig, tmp_path_factory):
    with slurm_lib.cluster(Path(pytestconfig.cache.mkdir('slurm'))) as cluster:
        # This machine has no GPU, and the Python of the tests.
        cluster.env.update(environment(), PATH=cluster.env['PATH'], PYTHON=sys.executable)
        cluster.env.update(SBATCH_GPUS='0', SBATCH_GPUS_PER_NODE='0', AT_ONCE='2')
        cluster.env.update(MIXJAX_CACHE=str(tmp_path_factory.mktemp('cache')))
        yield cluster


def submitted(said: str) -> str:
    """The job's number."""
    return re.fullmatch(r'Submitted batch job (\d+)', said)[1]


def stop(slurm, job: str) -> None:
    """SIGTERM to the processes of a job, as Slurm sends it before the time is over or before a preemption."""
    slurm.call('scancel', '--signal=TERM', f'{job}.0')


def test_nothing_listens_to_other_machines(slurm):
    lines = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
    listening = dict(reversed(fields[1].split(':')) for fields in lines if fields[3] == '0A')
    assert [listening[f'{port:04X}'] for port in slurm.ports] == ['0100007F'] * 2


def test_a_job_of_two_processes_is_stopped_and_comes_back(slurm, tmp_path):
    check = tmp_path / 'check.py'
    check.write_text(CHECK)
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {check} "$@"\n')
    python.chmod(0o755)
    (port,) = slurm_lib.free_ports(1)
    env = {
        **slurm.env, 'PYTHON': str(python), 'JAX_COORDINATOR_PORT': str(port),
        'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_COORDINATOR_BIND_ADDRESS': f'127.0.0.1:{port}',
    }  # fmt: skip
    mine = slurm._replace(env=env)
    words = ['sbatch', '--ntasks-per-node=2', '--cpus-per-task=1', LAUNCH / 'slurm_job.sh', "--workdir=a 'b' $c"]
    job = submitted(mine.call(*words, cwd=tmp_path))
    log = tmp_path / f'slurm-{job}.log'

    def both(start):
        return all((tmp_path / f'told-{start}-{rank}').exists() for rank in (0, 1))

    def ended():
        assert slurm.unended(job) or both(1), log.read_text()
        return not slurm.unended(job)

    slurm_lib.wait_for(lambda: both(0) or ended(), 60, 'the first start')
    stop(slurm, job)
    slurm_lib.wait_for(ended, 60, 'the second start')
    for start in (0, 1):
        for rank in (0, 1):
            told = (tmp_path / f'told-{start}-{rank}').read_text()
            assert told == repr([start, rank, 2, 2, 4, ['-m', 'mixjax.main', "--workdir=a 'b' $c"]])
    assert log.read_text().count('stopped with exit code 42; back into the queue') == 1  # and one log for both


def test_a_grid_is_an_array_and_the_run_that_is_stopped_goes_on(slurm, tmp_path):
    words = [LAUNCH / 'slurm_grid.sh', 'digits/grid', '--runs=runs', *TINY]
    job = submitted(slurm.call(*words, cwd=tmp_path))
    assert len(slurm.unended(job)) == 4
    logs = [tmp_path / f'slurm-{job}_{i}.log' for i in range(4)]

    def told():
        return '\n'.join(log.read_text() for log in logs if log.exists())

    first = 'runs/digits-finetune-3-*/checkpoints/0/step_20'
    slurm_lib.wait_for(lambda: list(tmp_path.glob(first)), 120, 'the first checkpoint')
    stop(slurm, slurm.call('squeue', '--noheader', '--format=%A', f'--jobs={job}_0').strip())
    deadline = time.monotonic() + 180
    while slurm.unended(job):
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)

    status = slurm.call(
        sys.executable, '-m', 'mixjax.grid', 'digits/grid', '--runs=runs', *TINY, '--status', cwd=tmp_path
    )
    assert status.split() == ['done', '4', '0-3', 'running', '0', 'begun', '0', 'missing', '0'], told()
    before, after = re.split(r'stopped with exit code (?:42|143); back into the queue\n', logs[0].read_text())
    assert 'step 1/80' in before and 'correct (n=1)' not in before
    assert int(re.search(r'step (\d+)/80', after)[1]) > 20 and 'correct (n=1)' in after
    assert all('correct (n=1)' in log.read_text() and 'back into' not in log.read_text() for log in logs[1:])

    again = submitted(slurm.call(*words, cwd=tmp_path))
    slurm_lib.wait_for(lambda: not slurm.unended(again), 60, 'finished runs')
    for i in range(4):
        (line,) = (tmp_path / f'slurm-{again}_{i}.log').read_text().splitlines()
        assert line.startswith(f'run {i} of 4') and 'finished before' in line


def test_wrong_input_is_not_tried_again(slurm, tmp_path):
    job = submitted(slurm.call(LAUNCH / 'slurm_job.sh', '--config=quikstart', '--workdir=x', cwd=tmp_path))
    slurm_lib.wait_for(lambda: not slurm.unended(job), 60, 'a refusal')
    log = (tmp_path / f'slurm-{job}.log').read_text()
    assert "did you mean 'quickstart'" in log and 'back into the queue' not in log
    assert 'ExitCode=2:0' in slurm.call('scontrol', 'show', 'job', job)
    assert os.listdir(tmp_path) == [f'slurm-{job}.log']
