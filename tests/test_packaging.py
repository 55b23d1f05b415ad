"""What a user who installs the package gets: the wheel has everything, and works in an empty folder."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mixjax
from tests.support.tree import ROOT, listed


def run(*command: str | Path, cwd: Path, ok: bool = True) -> str:
    """Run a command as on a user's machine: without this repository on the path, on one device."""
    hidden = {'PYTHONPATH', 'XLA_FLAGS', 'VIRTUAL_ENV', '__PYVENV_LAUNCHER__'}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert not ok or done.returncode == 0, f'{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}'
    return done.stdout + done.stderr


def in_package(path: Path) -> str | None:
    """Where the wheel holds a file of the repository: configs/ is mixjax/configs/; None for the rest."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith('configs/'):
        return f'mixjax/{name}'
    return name if name.startswith('mixjax/') else None


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the source archive, which is built from a copy of the repository."""
    copy, dist = tmp_path_factory.mktemp('copy'), tmp_path_factory.mktemp('dist')
    for path in listed():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', dist, cwd=copy)
    (file,) = dist.glob('*.whl')
    return file


@pytest.fixture(scope='session')
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a new environment with the wheel in it, which borrows the other packages from this one."""
    home = tmp_path_factory.mktemp('venv')
    run(sys.executable, '-m', 'venv', '--without-pip', home, cwd=home)
    python = home / 'bin' / 'python'
    install = ('install', '--no-index', '--no-deps', '--disable-pip-version-check', '--quiet')
    run(sys.executable, '-m', 'pip', '--python', python, *install, wheel, cwd=home)
    # Only now: pip would take the mixjax of this environment for an installed one. A folder that a .pth file
    # names is searched, but its own .pth files, such as that of an editable installation, are not read.
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=home).strip())
    (site / 'borrowed.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return python


def test_versions_agree():
    assert importlib.metadata.version('mixjax') == mixjax.__version__


def test_extras_are_those_the_documentation_names():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    extras = set(setup['options.extras_require'])
    assert extras == {
        'tpu', 'tpu-plan', 'cuda', 'prepare', 'hub', 'gcs', 'tensorboard', 'report', 'onnx', 'test', 'parity', 'lint', 'docs',
    }  # fmt: skip
    metadata = importlib.metadata.metadata('mixjax')
    assert set(metadata.get_all('Provides-Extra') or []) == extras
    needed = metadata.get_all('Requires-Dist') or []
    assert any(line.startswith('huggingface_hub') and 'extra' not in line for line in needed)
    assert not any('extra == "hub"' in line.replace("'", '"') for line in needed)  # old commands may still name it


@pytest.mark.parametrize('version', ['311', '312', '313'])
def test_constraints_name_what_is_always_installed(version):
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    lines = (ROOT / f'constraints-py{version}.txt').read_text().splitlines()
    needed = setup['options']['install_requires'].split()
    names = {re.split('[<>=;]', line)[0].lower().replace('_', '-') for line in needed if re.match('[A-Za-z]', line)}
    pinned = {line.partition('==')[0].lower().replace('_', '-') for line in lines}
    assert 'huggingface-hub' in names
    assert names - {'importlib-resources', 'python-version'} <= pinned  # the first for 3.11 only


def test_editable_installation_works_in_another_folder(tmp_path):
    script = 'import mixjax.config as c; print(*c.shipped()); c.load("quickstart:smoke")'
    assert 'quickstart' in run(sys.executable, '-c', script, cwd=tmp_path).split()


@pytest.mark.install
def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    wanted = {name for path in listed() if (name := in_package(path))}
    assert wanted >= {'mixjax/py.typed', 'mixjax/data/datasets/glyphs.npz', 'mixjax/configs/quickstart.py'}
    assert any(name.endswith('.safetensors') for name in wanted)
    assert names == wanted


@pytest.mark.install
def test_wheel_holds_the_licence(wheel):
    licence = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith('/LICENSE')]
    assert len(licence) == 1


@pytest.mark.install
def test_wheel_imports_in_an_empty_folder(python, tmp_path):
    script = (
        'import mixjax; import mixjax.config; mixjax.config.base(); import mixjax.train; '
        'assert callable(mixjax.train.run); print(mixjax.__file__)'
    )
    where = Path(run(python, '-W', 'error', '-c', script, cwd=tmp_path).strip())
    assert python.parents[1] in where.parents


@pytest.mark.install
def test_wheel_has_the_command(python, tmp_path):
    assert run(python.with_name('mixjax'), '--version', cwd=tmp_path) == f'mixjax {mixjax.__version__}\n'
    script = run(python.with_name('mixjax'), 'completion', 'bash', cwd=tmp_path)
    assert ' quickstart ' in script and ' digits/grid ' in script


@pytest.mark.install
def test_wheel_tries_the_quickstart_in_an_empty_folder(python, tmp_path):
    run(python.with_name('mixjax'), 'train', '--config=quickstart:smoke', '--workdir=out', cwd=tmp_path)
    assert json.loads((tmp_path / 'out' / 'results.json').read_text())['kind'] == 'comparison'
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.install
def test_wheel_has_the_images_and_weights_of_the_quickstart(python, tmp_path):
    flags = ('--config.num_seeds=1', '--config.steps=2', '--config.eval_every=2')
    run(python, '-m', 'mixjax.main', '--config=quickstart', '--workdir=out', *flags, cwd=tmp_path)
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert all(result['test_examples'] > 1700 for result in results['runs'].values())
    assert (tmp_path / 'out' / 'report.html').is_file()


@pytest.mark.install
def test_wheel_reports_wrong_commands(python, tmp_path):
    script = 'from mixjax.main import main; print("code", main(["--config=quickstar", "--workdir=out"]))'
    said = run(python, '-c', script, cwd=tmp_path)
    assert 'code 2' in said and 'quickstart' in said
