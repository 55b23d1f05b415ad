"""Several processes train one run: real processes, each with virtual devices, on this machine."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mixjax.commands.train import main
from mixjax.errors import UserError
from mixjax.host import cluster, liveness
from mixjax.train import mesh
from tests.support.common import ROOT, environment, final_state, lines
from tests.support.jobs import CONFIG, Job, made, run


def assert_nearly_same(a: Path, b: Path, seeds: range, steps: int = 20) -> None:
    for seed in seeds:
        left, right = final_state(a, seed, steps), final_state(b, seed, steps)
        assert left.keys() == right.keys() and len(left) > 10
        for name in left:
            np.testing.assert_allclose(left[name], right[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_two_processes_train_the_same_run_as_one(tmp_path, monkeypatch):
    """A seed whose batch lies on both of them."""
    words = [
        f'{CONFIG}:finetune',
        '--config.feed=stream',
        '--config.steps=4',
        '--config.eval_every=4',
        '--config.log_every=2',
        '--config.devices=4',
    ]
    two = run(made(tmp_path / 'two'), 2, 2, *words)
    monkeypatch.chdir(made(tmp_path / 'one'))
    assert main([*words, '--workdir=run']) == 0
    one = tmp_path / 'one' / 'run'
    assert_nearly_same(one, two, range(1), 4)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for name in ('splits.json', 'config.json', 'prepared-0.npz', 'samples.npz'):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    said = [np.load(run / 'predictions.npz') for run in (one, two)]
    for name in ('seed', 'step', 'label'):
        np.testing.assert_array_equal(*(file[name] for file in said))
    np.testing.assert_allclose(*(file['probability'] for file in said), rtol=1e-4)
    for left, right in zip(lines(one / 'metrics.jsonl'), lines(two / 'metrics.jsonl'), strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(left['loss'], right['loss'], rtol=1e-5)


@pytest.mark.faults
@pytest.mark.parametrize(('method', 'feed'), [('xmixup', 'stream'), ('smile', 'resident')])
def test_a_killed_job_goes_on_in_any_layout(method, feed, tmp_path):
    """Two seeds, one on each process; killed in the middle; as 2 x 4, 1 x 8 and 4 x 1."""
    words = [f'{CONFIG}:{method}', '--config.num_seeds=2', f'--config.feed={feed}']
    straight = run(made(tmp_path / 'straight'), 2, 4, *words)
    for count, devices in ((2, 4), (1, 8), (4, 1)):
        folder = made(tmp_path / f'{count}x{devices}')
        with Job(folder, 2, 4, *words, '--config.log_every=1', '--workdir=run') as job:
            job.until(folder / 'run', 12)
            for one in job.every:
                one.send_signal(signal.SIGKILL)
        again = run(folder, count, devices, *words, '--config.log_every=1')
        if (count, devices) == (2, 4):
            for seed in range(2):
                left, right = final_state(straight, seed, 20), final_state(again, seed, 20)
                assert all(np.array_equal(left[name], right[name]) for name in left)
            assert (straight / 'model.safetensors').read_bytes() == (again / 'model.safetensors').read_bytes()
        assert_nearly_same(straight, again, range(2))


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2])
def test_all_layouts_and_feeds_have_the_same_batches(count, tmp_path):
    """The bytes of images, labels, rows and partners; each process reads its share of the images."""
    found = []
    for many, devices in ((1, 8), (2, 4), (4, 1)):
        with Job(made(tmp_path / str(many)), many, devices, str(count), module='tests.support.talk') as job:
            assert job.ends() == [0] * many, [job.says(i, 'err') for i in range(many)]
            (line,) = [line for line in job.says(0, 'out').splitlines() if line.startswith('found ')]
            found.append(json.loads(line.removeprefix('found ')))
    assert found[0] == found[1] == found[2] and len(found[0]) == 6
    for step in range(3):
        assert found[0][f'resident {step}'] == found[0][f'stream {step}']
    assert len(set(found[0].values())) == 3


BROKEN = """
from mixjax.host import processes
from mixjax.data.feed import stream
from mixjax.errors import UserError
from tests.support.tiny_config import get_config

real = stream.examples

def examples(inputs, planner, step, part=slice(None)):
    if processes.index() == {who} and step == 8:
        raise {error}
    return real(inputs, planner, step, part)

stream.examples = examples
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ('who', 'error', 'code'), [(1, "UserError('cat.jpg cannot be read')", 2), (0, "LookupError('cat.jpg is large')", 1)]
)
def test_an_error_in_one_process_ends_the_others(who, error, code, tmp_path):
    (tmp_path / 'broken.py').write_text(BROKEN.format(who=who, error=error))
    with Job(tmp_path, 2, 2, '--config=broken.py', '--config.feed=stream', '--workdir=run') as job:
        assert job.ends() == [code, code]
        told = job.says(0, 'err')
        assert f'mixjax: process {who}: ' in told and 'cat.jpg' in told and told.count('mixjax: ') == 1
        assert ('Traceback' in told) == (code == 1)
        assert job.says(1, 'out') == '' and ('cat.jpg' in job.says(1, 'err')) == (who == 1)


def test_error_of_all_processes_is_printed_once(tmp_path):
    with Job(tmp_path, 2, 1, '--config=tiny', '--workdir=run') as job:
        assert job.ends() == [2, 2]
        assert job.says(0, 'err').startswith("mixjax: there is no config 'tiny'")
        assert job.says(1, 'err') == job.says(1, 'out') == ''


@pytest.mark.faults
@pytest.mark.parametrize('dead', [0, 1])
@pytest.mark.parametrize('seeds', [1, 2], ids=['one seed on both', 'a seed on each'])
def test_a_process_that_dies_ends_the_others(seeds, dead, tmp_path):
    """Within seconds, also where nothing goes between them; the heartbeats would need more than a minute."""
    words = ['--config.steps=100000', '--config.log_every=1', f'--config.num_seeds={seeds}', '--workdir=run']
    with Job(tmp_path, 2, 1, f'{CONFIG}:finetune', *words) as job:
        job.until(tmp_path / 'run', 7)
        job.every[dead].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert job.every[1 - dead].wait(60) not in (0, None)
        print(f'noticed after {time.monotonic() - began:.1f} s')
        assert time.monotonic() - began < 20
        assert 'another task died' in job.says(1 - dead, 'err')


@pytest.mark.faults
def test_slow_process_is_not_declared_dead(tmp_path):
    """As one of a machine that is too busy: it stands still for 45 seconds, and the run goes on."""
    words = ['--config.steps=300', '--config.log_every=1', '--workdir=run']
    with Job(tmp_path, 2, 1, f'{CONFIG}:finetune', *words) as job:
        job.until(tmp_path / 'run', 7)
        job.every[1].send_signal(signal.SIGSTOP)
        time.sleep(45)
        assert all(one.poll() is None for one in job.every)
        job.every[1].send_signal(signal.SIGCONT)
        assert job.ends() == [0, 0], [job.says(i, 'err') for i in range(2)]


class Told:
    """The service by which processes tell each other, of one process."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        self.said[key] = value

    def blocking_key_value_get(self, key: str, _: int) -> str:
        return self.said[key]


CHILD = f"""
import json, sys, time
from mixjax.host import liveness
from {__name__} import Told

client = Told()
client.said = json.loads(sys.argv[1])
liveness.connect(client, 'here', '127.0.0.1', int(sys.argv[2]), print)
print('connected', flush=True)
sys.stdin.readline()
liveness.bye()
"""


def test_closed_connection_means_death_unless_announced():
    died, client = [], Told()
    liveness.listen(client, 'here', 4, died.append)
    port, token = json.loads(client.said['here'])
    for said in (b'x' * 64, b'\xff' * 64, f'{"0" * 32} 1'.ljust(64).encode(), token.encode(), b''):
        with socket.create_connection(('127.0.0.1', port)) as stranger:  # is not listened to
            stranger.sendall(said)
    words = [sys.executable, '-c', CHILD, json.dumps(client.said)]
    how: dict[str, Any] = {'cwd': ROOT, 'env': environment(), 'stdin': -1, 'stdout': -1, 'text': True}
    every = [subprocess.Popen([*words, str(i)], **how) for i in (1, 2, 3)]
    try:
        for one in every:
            assert one.stdout.readline() == 'connected\n'
        time.sleep(0.5)
        assert died == []
        every[1].kill()
        until = time.monotonic() + 30
        while not died and time.monotonic() < until:
            time.sleep(0.01)
        assert died == [2]
        every[0].stdin.write('end\n')
        every[0].stdin.flush()
        assert every[0].wait(60) == 0
        every[2].send_signal(signal.SIGSTOP)  # is slow
        time.sleep(0.5)
        assert died == [2] and len(token) == 32
    finally:
        for one in every:
            one.kill()
            one.communicate()  # closes its files


SLURM = {'SLURM_JOB_ID': '77', 'SLURM_STEP_NODELIST': 'node[03-04]', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1'}


@pytest.mark.parametrize(
    ('shown', 'found'),
    [
        ({}, None),
        ({**SLURM, 'SLURM_NTASKS': '1'}, None),
        ({**SLURM, 'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'}, None),  # a shell in a job of four
        ({**SLURM, 'SLURM_NTASKS': '2'}, cluster.Place('node03:61517', 2, 1, [1])),
        ({**SLURM, 'SLURM_NTASKS': '2', 'CUDA_VISIBLE_DEVICES': '5'}, cluster.Place('node03:61517', 2, 1)),
        (
            {**SLURM, 'SLURM_NTASKS': '2', 'SLURM_LOCALID': '0', 'SLURM_STEP_TASKS_PER_NODE': '1(x2)'},
            cluster.Place('node03:61517', 2, 1),
        ),
        ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None),  # without the package that can ask it
    ],
)  # fmt: skip
def test_cluster_detection(shown, found, monkeypatch):
    monkeypatch.setitem(sys.modules, 'kubernetes', None)
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    assert cluster.detected() == found
    if found is None:
        assert cluster.join({}) == ''
        with pytest.raises(UserError, match='nothing here shows a cluster'):
            cluster.join({'distributed': 'on'})


def test_a_cluster_that_does_not_answer(monkeypatch):
    monkeypatch.setenv('OMPI_MCA_orte_hnp_uri', 'nonsense')
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '0')
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '1')
    assert cluster.join({}) == ''
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
    with pytest.raises(UserError, match='no cluster is used .* or --distributed=off'):
        cluster.join({})
    assert cluster.join({'distributed': 'off'}) == ''


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        ({'distributed': 'maybe'}, '--distributed=maybe must be auto, on or off'),
        ({'coordinator': 'a:1'}, 'go together'),
        ({'coordinator': 'a', 'processes': '2', 'process': '1'}, 'must be HOST:PORT'),
        ({'coordinator': 'a:1', 'processes': 'x', 'process': '1'}, 'whole numbers'),
        ({'coordinator': 'a:1', 'processes': '2', 'process': '2'}, 'one of 0 to 1'),
        ({'coordinator': 'a:1', 'processes': '2', 'process': '1', 'distributed': 'off'}, 'does not go with'),
    ],
)
def test_wrong_flags(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        cluster.join(flags)


class Device(NamedTuple):
    id: int
    process_index: int


@pytest.mark.parametrize(
    ('each', 'many', 'chosen'),
    [((4, 4), 8, [0, 1, 2, 3, 4, 5, 6, 7]), ((4, 4), 6, [0, 1, 2, 3, 4, 5]), ((2, 2, 2, 2), 6, [0, 1, 2, 3, 4, 6]),
     ((8,), 5, [0, 1, 2, 3, 4]), ((4, 4), 2, [0, 4])],
)  # fmt: skip
def test_every_process_has_devices_of_the_mesh(each, many, chosen):
    owners = [process for process, count in enumerate(each) for _ in range(count)]
    devices = [Device(i, process) for i, process in enumerate(owners)]
    assert [device.id for device in mesh.choose_devices(devices, many)] == chosen
    with pytest.raises(UserError, match='start fewer processes'):
        mesh.choose_devices(devices, len(each) - 1)
