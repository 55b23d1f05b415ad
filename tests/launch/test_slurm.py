"""The Slurm files with a real Slurm: a job of two processes and an array, each stopped once and requeued."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.launch import slurm as slurm_lib
from tests.support.common import ROOT, environment, lines

pytestmark = [
    pytest.mark.launch,
    pytest.mark.skipif(
        not (shutil.which('apt-get') and shutil.which('dpkg')),
        reason='Slurm comes as Debian packages: no apt-get, dpkg',
    ),
]
LAUNCH = ROOT / 'launch'
TINY = ['--config.num_seeds=1', '--config.steps=80', '--config.checkpoint_every=20', '--config.log_every=20']


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
    """One run on both; SIGTERM: it is saved, ends with 42, and goes on from there when it is started again."""
    (port,) = slurm_lib.free_ports(1)
    env = {
        **slurm.env, 'JAX_COORDINATOR_PORT': str(port), 'JAX_COORDINATOR_BIND_ADDRESS': f'127.0.0.1:{port}',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    }  # fmt: skip
    config = f'--config={ROOT / "tests" / "support" / "tiny_config.py"}:finetune'
    words = [
        config,
        '--config.steps=1500',
        '--config.checkpoint_every=500',
        '--config.eval_every=500',
        "--workdir=a 'b' $c",
    ]
    mine = slurm._replace(env=env)
    starter = ['sbatch', '--ntasks-per-node=2', '--cpus-per-task=1', LAUNCH / 'slurm_job.sh']
    job = submitted(mine.call(*starter, *words, '--config.log_every=5', cwd=tmp_path))
    log, metrics = tmp_path / f'slurm-{job}.log', tmp_path / "a 'b' $c" / 'metrics.jsonl'

    def logged() -> list[dict]:
        return lines(metrics) if metrics.exists() else []

    def ended() -> bool:
        return not slurm.unended(job)

    slurm_lib.wait_for(lambda: logged() or ended(), 120, 'the first steps')
    stop(slurm, job)
    slurm_lib.wait_for(lambda: 'back into the queue' in log.read_text() or ended(), 60, 'the save')
    at = int(re.search(r'saved at step (\d+)', log.read_text())[1])
    assert 0 < at < 1500
    slurm_lib.wait_for(ended, 180, 'the second start')
    told = log.read_text()
    assert told.count('stopped with exit code 42; back into the queue') == 1 and told.count('report: ') == 1, told
    steps = [line['step'] for line in logged() if line['kind'] == 'train']
    assert steps == sorted(set(steps)) and steps[-1] == 1500
    about = json.loads((tmp_path / "a 'b' $c" / 'env.json').read_text())
    assert about['devices'] == ['cpu'] * 4  # two of each process


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
        sys.executable, '-m', 'mixjax', 'grid', 'digits/grid', '--runs=runs', *TINY, '--status', cwd=tmp_path
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
