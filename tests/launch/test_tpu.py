"""launch/tpu.sh against a stand-in for gcloud that keeps machines as folders and runs on them what it is told.

What the stand-in was asked is then asked of the real gcloud, where that is installed: without an account it checks
the words and goes no further.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.common import ROOT

pytestmark = pytest.mark.launch
TPU = ROOT / 'launch' / 'tpu.sh'
CHIPS = {'NAME': 'pod', 'PROJECT': 'mine', 'ZONE': 'us-west4-a', 'POLL': '0.1'}

GCLOUD = r"""#!/usr/bin/env bash
{ printf '%q ' "$@"; echo; } >>"$CLOUD/asked"
for word in "$@"; do
    case $word in
        --command=*) command=${word#--command=} ;;
        --node-count=*) count=${word#--node-count=} ;;
        --node-id=*) count=1 ;;
    esac
done
case "$3 $4" in
    'queued-resources create')
        for ((i = 0; i < count; i++)); do mkdir -p "$CLOUD/$5-$i"; done
        echo "${CREATED:-ACTIVE}" >"$CLOUD/state" ;;
    'queued-resources describe') cat "$CLOUD/state" ;;
    'queued-resources delete') rm -rf "$CLOUD/state" "$CLOUD/$5"-* ;;
    'tpu-vm scp') cp "$5" "$CLOUD/${6/://}" ;;
    'tpu-vm ssh') cd "$CLOUD/$5" && HOME=$PWD exec bash -c "$command" ;;
    *) echo "what is $*?" >&2; exit 9 ;;
esac
"""
# A worker's own Python, which installs: it makes the command that trains.
PYTHON3 = r"""#!/usr/bin/env bash
{ printf '%q ' "$@"; echo; } >>"$CLOUD/installed"
[ "$3" = venv ] || exit 0
mkdir -p .venv/bin
cp "$CLOUD/trains" .venv/bin/mixjax
"""
TRAINS = """#!/usr/bin/env bash
{ printf '%q ' "$@"; echo; } >>"$CLOUD/trained"
"""


class Cloud(NamedTuple):
    """folder: of the machines and of what was asked. env: in which `gcloud` is the stand-in."""

    folder: Path
    env: dict[str, str]

    def tpu(self, *words: str, **env: str) -> subprocess.CompletedProcess:
        every = {**self.env, **env}
        return subprocess.run([str(TPU), *words], env=every, capture_output=True, text=True, timeout=60)

    def lines(self, name: str) -> list[list[str]]:
        """The words of each call; bash reads what its `printf %q` wrote."""
        path = self.folder / name
        return [words(line) for line in path.read_text().splitlines()] if path.exists() else []

    def trains(self, script: str) -> None:
        program(self.folder / 'trains', TRAINS + script)

    def codes(self, slices: int) -> list[str]:
        """The exit codes of all slices, once they are there."""
        deadline = time.monotonic() + 20
        files = [self.folder / f'pod-{i}' / 'mixjax' / 'exit' for i in range(slices)]
        while not all(file.exists() and file.read_text().strip() for file in files):
            assert time.monotonic() < deadline, [p.read_text() for p in self.folder.glob('pod-*/mixjax/log')]
            time.sleep(0.05)
        return [file.read_text().strip() for file in files]


def words(line: str) -> list[str]:
    read = subprocess.run(['bash', '-c', f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return read.stdout.split('\0')[:-1]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    (tmp_path / 'bin').mkdir()
    program(tmp_path / 'bin' / 'gcloud', GCLOUD)
    program(tmp_path / 'bin' / 'python3', PYTHON3)
    out = Cloud(tmp_path, {**os.environ, **CHIPS, 'CLOUD': str(tmp_path), 'PATH': f'{tmp_path}/bin:/usr/bin:/bin'})
    out.trains('')
    return out


def ready(cloud: Cloud, **env: str) -> None:
    for step in ('create', 'wait', 'install'):
        done = cloud.tpu(step, **env)
        assert done.returncode == 0, f'{step}: {done.stdout}{done.stderr}'


def test_machines_get_the_source_and_an_environment(cloud):
    ready(cloud, SPOT='yes')
    assert '--spot' in cloud.lines('asked')[0]
    source = cloud.folder / 'pod-0' / 'mixjax'
    for name in ('mixjax/main.py', 'mixjax/data/datasets/glyphs.npz', 'configs/quickstart.py', 'setup.py', 'LICENSE'):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()
    assert cloud.lines('installed')[-1][-3:] == ['-c', 'constraints-py312.txt', '.[tpu,gcs]']
    done = cloud.tpu('create')
    assert done.returncode == 0 and '--spot' not in cloud.lines('asked')[-1]


def test_run_arguments_are_passed_unchanged(cloud):
    ready(cloud)
    words = ['--config=a b.py', "--config.x='$HOME'", '--config.y="\\', '--workdir=gs://bucket/é;#']
    assert cloud.tpu('run', *words).returncode == 0
    assert cloud.codes(1) == ['0']
    assert cloud.lines('trained') == [['train', *words]]
    assert cloud.tpu('status').stdout.split() == ['machines:', 'ACTIVE', 'exit', 'codes,', 'by', 'slice:', '0']


def test_a_stopped_run_goes_on_and_a_wrong_one_does_not(cloud):
    ready(cloud)
    cloud.trains('n=$(wc -l <"$CLOUD/trained"); codes=(0 42 143 2); exit "${codes[$n]}"')
    ready(cloud)
    assert cloud.tpu('run', '--config=x').returncode == 0
    assert cloud.codes(1) == ['2'] and len(cloud.lines('trained')) == 3


def test_only_one_run_at_a_time(cloud):
    ready(cloud)
    cloud.trains('while [ ! -e "$CLOUD/enough" ]; do sleep 0.1; done')
    ready(cloud)
    assert cloud.tpu('run', '--config=x').returncode == 0
    again = cloud.tpu('run', '--config=x')
    assert again.returncode == 3 and 'it is running already' in again.stderr
    assert cloud.tpu('status').stdout.split()[-1] == 'running'
    (cloud.folder / 'enough').touch()
    assert cloud.codes(1) == ['0'] and len(cloud.lines('trained')) == 1


def test_a_grid_is_shared_out_over_the_slices(cloud):
    cloud.trains('case "$*" in *--count*) echo 5 ;; *"--run 3"*) exit 2 ;; esac')
    ready(cloud, SLICES='2')
    assert cloud.tpu('grid', 'my grid.py', '--runs=gs://b/x', SLICES='2').returncode == 0
    assert cloud.codes(2) == ['0', '2']  # the one that fails does not keep the others from their turn
    runs = [line[1:] for line in cloud.lines('trained') if '--run' in line]
    assert sorted(runs) == [['my grid.py', '--runs=gs://b/x', '--run', str(i)] for i in range(5)]
    assert [run[-1] for run in runs if run[-1] in '024'] == ['0', '2', '4']


def test_keep_asks_for_new_machines_until_it_is_done(cloud):
    # The first start loses its machines; the second one ends well.
    cloud.trains('[ "$(wc -l <"$CLOUD/trained")" -gt 1 ] || { echo SUSPENDED >"$CLOUD/state"; exit 1; }')
    done = cloud.tpu('keep', 'run', '--config=x')
    assert done.returncode == 0, done.stderr
    assert 'the machines are gone; asking for new ones' in done.stderr and 'exit codes, by slice: 0' in done.stdout
    asked = [' '.join(line[2:4]) for line in cloud.lines('asked')]
    assert asked.count('queued-resources create') == asked.count('queued-resources delete') == 2
    assert len(cloud.lines('trained')) == 2 and not (cloud.folder / 'state').exists()


def test_keep_ends_with_the_code_of_the_run(cloud):
    cloud.trains('exit 2')
    assert cloud.tpu('keep', 'run', '--config=x').returncode == 2
    assert not (cloud.folder / 'state').exists()  # the machines were given back


def test_keep_does_not_start_twice(cloud):
    ready(cloud)
    cloud.trains('sleep 4')
    ready(cloud)
    assert cloud.tpu('run', '--config=x').returncode == 0
    assert cloud.tpu('keep', 'run', '--config=x').returncode == 0
    assert len(cloud.lines('trained')) == 1


@pytest.mark.parametrize(
    ('words', 'env', 'sentence'),
    [
        (['creat'], {}, "there is no command 'creat'"),
        (['run'], {}, 'run needs the arguments of mixjax train'),
        (['run', '--config=x'], {'SLICES': '2'}, 'run is for one slice'),
        (['grid'], {}, 'grid needs a file'),
        (['keep'], {}, 'keep run ARGS, or keep grid FILE ARGS'),
        (['keep', 'create'], {}, 'keep run ARGS, or keep grid FILE ARGS'),
        (['wait'], {'STATE': 'FAILED'}, 'pod is FAILED'),
    ],
)
def test_wrong_words_end_in_one_sentence(words, env, sentence, cloud):
    (cloud.folder / 'state').write_text(env.pop('STATE', 'ACTIVE'))
    done = cloud.tpu(*words, **env)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_gcloud(tmp_path):
    (tmp_path / 'bash').symlink_to(shutil.which('bash'))
    (tmp_path / 'dirname').symlink_to(shutil.which('dirname'))
    done = subprocess.run([shutil.which('bash'), TPU, 'create'], env={'PATH': str(tmp_path)}, capture_output=True)
    assert done.returncode == 2 and b'gcloud is not installed' in done.stderr


# --- the real gcloud --------------------------------------------------------------------------------------------------


def asked_of_gcloud(words: list[str], folder: Path) -> str:
    """What the real gcloud says, with a configuration of its own in which there is no account."""
    env = {'PATH': os.environ['PATH'], 'HOME': str(folder), 'CLOUDSDK_CONFIG': str(folder / 'gcloud')}
    env |= {'CLOUDSDK_CORE_DISABLE_PROMPTS': '1', 'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': '1'}
    done = subprocess.run(['gcloud', *words], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode, 'without an account nothing can succeed'
    return done.stderr


@pytest.mark.skipif(not shutil.which('gcloud'), reason='gcloud is not installed')
def test_gcloud_knows_every_word(cloud, tmp_path):
    ready(cloud, SPOT='yes', SLICES='2')
    for step in ('create', 'status', 'delete'):
        assert cloud.tpu(step).returncode == 0
    different = {
        tuple(line[2:4]) + ('--spot' in line, '--node-id=pod-0' in line): line for line in cloud.lines('asked')
    }
    assert len(different) == 6  # create in two ways, describe, delete, ssh, scp
    for line in different.values():
        assert 'not currently have an active account' in asked_of_gcloud(line, tmp_path), line
    misspelt = [*next(iter(different.values())), '--spott']
    assert 'unrecognized arguments: --spott' in asked_of_gcloud(misspelt, tmp_path)
