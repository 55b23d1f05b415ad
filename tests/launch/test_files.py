"""The files in launch/, each checked by what will read it, as far as that works without an account or a cluster."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mixjax.commands import grid as grid_lib
from mixjax.commands.parser import parse
from mixjax.commands.table import TRAIN
from tests.support.common import FIXTURES, ROOT

pytestmark = pytest.mark.launch
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
DOCKERFILES = sorted(LAUNCH.glob('Dockerfile.*'))


def bash(*words: str | Path, **env: str) -> subprocess.CompletedProcess:
    every = {**os.environ, **env}
    return subprocess.run([str(word) for word in words], env=every, capture_output=True, text=True, timeout=60)


def test_launch_folder_has_only_known_files():
    known = {path.name for path in (*SCRIPTS, *DOCKERFILES)} | {'README.md', 'skypilot.yaml'}
    assert {path.name for path in LAUNCH.iterdir()} == known
    assert {path.name for path in SCRIPTS} == {'gke.sh', 'slurm_grid.sh', 'slurm_job.sh', 'tpu.sh'}
    assert {path.suffix for path in DOCKERFILES} == {'.cpu', '.cuda', '.tpu'}


# --- shell ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_passes(script):
    tool = shutil.which('shellcheck', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    assert tool, 'shellcheck is in the extra `test`'
    found = bash(tool, script)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize('words', [[], ['--help'], ['-h']])
def test_script_help_is_its_head_comment(script, words):
    said = bash(script, *words, PATH='/usr/bin:/bin')
    assert said.returncode == 0 and not said.stderr
    head = script.read_text().split('\n\nset -')[0]
    assert len(said.stdout.strip().splitlines()) > 8
    assert all(f'# {line}'.rstrip() in head for line in said.stdout.strip().splitlines())


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_script_settings_are_at_the_top_with_comments(script):
    lines = script.read_text().splitlines()
    settings = [i for i, line in enumerate(lines) if re.match(r'[A-Z_]+=\$\{[A-Z_]+:-', line)]
    assert settings and settings == list(range(settings[0], settings[-1] + 1))
    assert lines[settings[0] - 2].startswith('set -euo pipefail')
    assert all(re.search(r'\}\s+# \w', lines[i]) for i in settings)
    rest = '\n'.join(lines[settings[-1] + 1 :])
    for i in settings:
        assert lines[i].partition('=')[0] in rest, f'{lines[i]}: nothing reads it'


def test_train_commands_in_launch_files_parse():
    """What the heads of the files say to type is what mixjax takes."""
    found = 0
    for path in (*SCRIPTS, *DOCKERFILES, LAUNCH / 'skypilot.yaml'):
        for words in re.findall(r'\btrain (--config.*?)(?:["\']|$)', path.read_text(), re.MULTILINE):
            assert {'config', 'workdir'} == parse(TRAIN, shlex.split(words)).given.keys()
            found += 1
    assert found >= 4


# --- GKE --------------------------------------------------------------------------------------------------------------

SINGLE = {'HOSTS': '1', 'TOPOLOGY': '2x2'}


def strict(schema: dict) -> dict:
    """A CRD's schema, in which a name that it does not have is an error, as it is for `kubectl apply`."""
    if schema.get('x-kubernetes-int-or-string'):
        return {'type': ['integer', 'string']}
    out = dict(schema)
    if 'properties' in schema:
        out['properties'] = {name: strict(inner) for name, inner in schema['properties'].items()}
        out.setdefault('additionalProperties', False)
    for key in ('items', 'additionalProperties'):
        if isinstance(out.get(key), dict):
            out[key] = strict(out[key])
    return out


def wrong(manifest: dict) -> list[str]:
    import jsonschema

    schema = strict(json.loads((FIXTURES / 'third_party/jobset/schema.json').read_text()))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(manifest)]


def manifests(*words: str, **env: str) -> list[dict]:
    printed = bash(LAUNCH / 'gke.sh', *words, **env)
    assert printed.returncode == 0, printed.stderr
    return list(yaml.safe_load_all(printed.stdout))


def container(manifest: dict) -> dict:
    (job,) = manifest['spec']['replicatedJobs']
    (one,) = job['template']['spec']['template']['spec']['containers']
    return one


JOB = ['job', '--config=quickstart', '--workdir=gs://bucket/run']


@pytest.mark.parametrize(
    ('words', 'env', 'count'),
    [
        (JOB, {}, 1),
        (JOB, {'SPOT': 'yes', 'QUEUE': 'team', 'ACCOUNT': 'writer'}, 1),
        (JOB, SINGLE, 1),
        (['grid', '108', 'digits/grid'], {**SINGLE, 'SPOT': 'yes', 'QUEUE': 'team'}, 1),
        (['grid', '3', 'digits/grid', '--runs=gs://bucket/x'], {'QUEUE': 'team'}, 3),
    ],
)
def test_manifests_match_kubernetes_schemas(words, env, count):
    found = manifests(*words, **env)
    assert len(found) == count == len({manifest['metadata']['name'] for manifest in found})
    for manifest in found:
        assert wrong(manifest) == []
        assert manifest['apiVersion'] == 'jobset.x-k8s.io/v1alpha2' and manifest['kind'] == 'JobSet'
        labels = manifest['metadata'].get('labels', {})
        assert labels.get('kueue.x-k8s.io/queue-name', '') == env.get('QUEUE', '')
        spec = manifest['spec']['replicatedJobs'][0]['template']['spec']
        pod = spec['template']['spec']
        assert ('cloud.google.com/gke-spot' in pod['nodeSelector']) == ('SPOT' in env)
        assert pod.get('serviceAccountName', '') == env.get('ACCOUNT', '')
        assert pod['restartPolicy'] == 'Never'  # a pod failure policy demands it
        assert spec['completionMode'] == 'Indexed' and spec['completions'] >= spec['parallelism']


def test_schemas_reject_misspelt_keys():
    good = json.dumps(manifests(*JOB)[0])
    for right, misspelt in (
        ('backoffLimit', 'backofLimit'), ('maxRestarts', 'maxRestart'), ('"values"', '"value"'), ('"image"', '"img"'),
        ('"value": "1"', '"value": 1'), ('FailJobSet', 'FailJobset'), ('"parallelism": 4', '"parallelism": "4"'),
    ):  # fmt: skip
        assert right in good and len(wrong(json.loads(good.replace(right, misspelt)))) >= 1, misspelt


def test_gke_job_has_one_pod_per_host_and_restarts():
    (manifest,) = manifests(*JOB, HOSTS='16', TOPOLOGY='8x8')
    spec = manifest['spec']['replicatedJobs'][0]['template']['spec']
    assert (spec['parallelism'], spec['completions'], spec['backoffLimit']) == (16, 16, 0)
    assert manifest['spec']['failurePolicy']['maxRestarts'] == 50
    assert container(manifest)['args'] == ['train', *JOB[1:]]


def test_gke_grid_of_single_hosts_has_one_pod_per_run():
    (manifest,) = manifests('grid', '108', 'digits/grid', **SINGLE)
    spec = manifest['spec']['replicatedJobs'][0]['template']['spec']
    assert (spec['completions'], spec['parallelism'], spec['backoffLimitPerIndex']) == (108, 4, 3)
    rules = spec['podFailurePolicy']['rules']
    codes = {code: rule['action'] for rule in rules for code in rule.get('onExitCodes', {}).get('values', [])}
    assert codes == {2: 'FailIndex', 42: 'Ignore', 143: 'Ignore'}
    assert container(manifest)['args'] == ['grid', 'digits/grid', '--distributed=off', '--run', 'auto']
    assert 'JOB_COMPLETION_INDEX' in grid_lib.INDICES
    assert manifests('grid', '2', 'x', **SINGLE)[0]['spec']['replicatedJobs'][0]['template']['spec']['parallelism'] == 2


def test_gke_grid_of_slices_has_one_jobset_per_run():
    found = manifests('grid', '3', 'digits/grid', '--config.steps=2')
    assert [container(one)['args'][-2:] for one in found] == [['--run', str(i)] for i in range(3)]
    assert container(found[0])['args'][:3] == ['grid', 'digits/grid', '--config.steps=2']


def test_gke_passes_arguments_unchanged():
    words = ['--config=a b.py', '--config.x="q\\', "--config.y='$HOME' # no", '--config.z=: {', '--workdir=é']
    assert container(manifests('job', *words)[0])['args'] == ['train', *words]


@pytest.mark.parametrize(
    ('words', 'env', 'sentence'),
    [
        (['jobb'], {}, "there is no command 'jobb'"),
        (['job'], {}, 'job needs the arguments'),
        (['grid', 'digits/grid'], {}, 'grid needs the number of runs'),
        (['grid', '0', 'digits/grid'], {}, 'grid needs the number of runs'),
        (['grid', '4'], {}, 'grid needs a file'),
        (JOB, {'TOPOLOGY': '8x8'}, 'TOPOLOGY=8x8 is not HOSTS=4 times CHIPS=4'),
    ],
)
def test_gke_refuses_wrong_arguments_in_one_sentence(words, env, sentence):
    done = bash(LAUNCH / 'gke.sh', *words, **env)
    assert done.returncode == 2 and sentence in done.stderr and not done.stdout


# --- images -----------------------------------------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r'\\\n', ' ', re.sub(r'^#.*\n', '', text, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.suffix)
def test_dockerfiles_copy_existing_files(path):
    found = instructions(path.read_text())
    assert {name for name, _ in found} <= {'FROM', 'RUN', 'COPY', 'WORKDIR', 'ENV', 'USER', 'ENTRYPOINT', 'CMD'}
    first, image = found[0]
    assert first == 'FROM' and re.fullmatch(r'python:3\.\d+-slim', image)
    version = image[7:].removesuffix('-slim').replace('.', '')
    for name, rest in found:
        if name == 'COPY':
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
        if name in ('ENTRYPOINT', 'CMD'):
            assert all(isinstance(word, str) for word in json.loads(rest))  # else a shell would swallow signals
        if name == 'RUN' and 'apt-get install' in rest:
            assert rest.startswith('apt-get update') and 'rm -rf /var/lib/apt/lists' in rest
    said = dict(found)
    assert said['USER'] not in ('0', 'root')
    assert json.loads(said['ENTRYPOINT']) == ['tini', '--', 'mixjax']
    copied = ' '.join(rest for name, rest in found if name == 'COPY').split()
    assert {'setup.py', 'setup.cfg', 'pyproject.toml', 'LICENSE', 'README.md', 'mixjax', 'configs'} <= set(copied)
    assert f'constraints-py{version}.txt' in copied
    install = next(rest for name, rest in found if name == 'RUN' and 'pip install' in rest)
    assert f'-c constraints-py{version}.txt' in install
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    extras = re.search(r"'\.\[(.*?)\]'", install)[1].split(',')
    assert set(extras) <= set(setup['options.extras_require'])
    assert path.suffix == '.cpu' or path.suffix[1:] in extras


# --- SkyPilot ---------------------------------------------------------------------------------------------------------


def test_skypilot_task_runs_the_train_command():
    task = yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text())
    assert task['resources']['job_recovery']['recover_on_exit_codes'] == [42, 143]
    command, *words = shlex.split(task['envs']['COMMAND'])
    assert command == 'train' and parse(TRAIN, words).given.keys() == {'config', 'workdir'}
    used = set(re.findall(r'\$(\w+)', f'{task["run"]}\n{task["setup"]}'))
    assert used == task['envs'].keys()


@pytest.mark.skipif(os.environ.get('LAUNCH_ALL') != '1', reason="SkyPilot's parser is large: LAUNCH_ALL=1 installs it")
def test_skypilot_accepts_the_task(tmp_path):
    python = tmp_path / 'venv' / 'bin' / 'python'
    for words in (
        [sys.executable, '-m', 'venv', tmp_path / 'venv'],
        [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', 'skypilot==0.14.1'],
    ):
        subprocess.run(words, check=True, timeout=900)
    script = 'import sys, sky; (one,) = sky.Task.from_yaml(sys.argv[1]).resources; print(one, one.job_recovery)'
    env = {'HOME': str(tmp_path), 'SKYPILOT_DISABLE_USAGE_COLLECTION': '1'}
    good = bash(python, '-c', script, LAUNCH / 'skypilot.yaml', **env)
    assert good.returncode == 0 and '[Spot]' in good.stdout, good.stderr
    assert "'recover_on_exit_codes': [42, 143]" in good.stdout
    text = (LAUNCH / 'skypilot.yaml').read_text()
    for right, misspelt in (('resources:', 'resurces:'), ('use_spot', 'use_spott'), ('num_nodes', 'nodes')):
        (tmp_path / 'wrong.yaml').write_text(text.replace(right, misspelt, 1))
        assert right in text and bash(python, '-c', script, tmp_path / 'wrong.yaml', **env).returncode != 0, misspelt
