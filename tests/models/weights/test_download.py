"""Downloads from a hub on this machine: what is said, what is fetched, what a break leaves, and each refusal."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save

from mixjax import config as config_lib
from mixjax import models
from mixjax.errors import UserError
from mixjax.host import processes, storage
from mixjax.models import preprocessing, weights
from mixjax.models.weights import download, hub, loading, shards
from mixjax.train import shared
from mixjax.train import start as start_lib
from tests.support import loopback_hub
from tests.support.common import ROOT, call, environment
from tests.support.loopback_hub import COMMIT

SPEC = 'hf://me/tiny'
MODEL = 'model.safetensors'
BODY = save({'fc.weight': np.arange(300_000, dtype=np.float32)})
CARD = b'---\nlicense: mit\n---\n# Card\n'


@pytest.fixture(scope='module')
def server():
    with loopback_hub.running() as running:
        yield running


@pytest.fixture
def site(server, tmp_path, monkeypatch):
    """The hub, with no repository yet; its cache is empty and nobody is logged in."""
    from huggingface_hub import constants

    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.setenv('HF_ENDPOINT', server.address)
    for name in ('HF_HUB_CACHE', 'HF_HUB_OFFLINE', 'HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(download, 'WAITS', (0.0, 0.0))
    server.repositories.clear()
    server.asked.clear()
    server.signed.clear()
    server.sent = 0
    return server


def tiny(site, **settings):
    files = {MODEL: BODY, 'README.md': CARD, 'config.json': b'{"architecture": "resnet18"}', 'other.onnx': b'0'}
    return site.add('me/tiny', files, **{'card': {'license': 'mit'}, 'large': (MODEL,), **settings})


def gets(site, name=MODEL):
    return [line for line in site.asked if line.startswith('GET') and name in line and '/resolve/' in line]


def parts(tmp_path):
    return list((tmp_path / 'hub').rglob('*.incomplete'))


# --- the download -----------------------------------------------------------------------------------------------------


def test_missing_weights_are_downloaded_once_and_described(site, tmp_path, capsys):
    tiny(site)
    assert weights.missing(SPEC) is None
    said = capsys.readouterr()
    first, last = said.err.splitlines()
    assert first == ('weights hf://me/tiny: downloading me/tiny, revision main (commit 0123456), 1.2 MB, licence mit')
    assert last.startswith('weights hf://me/tiny: downloaded 1.2 MB in 0 s, into ') and said.out == ''
    path = hub.cached_file(hub.parse(SPEC))
    assert path is not None and path.read_bytes() == BODY and path.parent.name == COMMIT
    assert hub.about(hub.parse(SPEC), path) == {'model': 'resnet18', 'licence': 'mit'}
    assert not gets(site, 'onnx') and len(gets(site)) == 1 and not parts(tmp_path)
    site.asked.clear()
    assert weights.missing(SPEC) is None and weights.load(SPEC).about['licence'] == 'mit'
    assert weights.missing(f'{SPEC}@{COMMIT}') is None
    assert site.asked == [] and capsys.readouterr().err == ''


def test_the_cache_is_one_that_huggingface_hub_reads(site, tmp_path):
    import huggingface_hub

    tiny(site, branches=('main', 'v2'))
    assert weights.missing(f'{SPEC}@v2') is None
    found = huggingface_hub.try_to_load_from_cache('me/tiny', MODEL, cache_dir=tmp_path / 'hub', revision='v2')
    assert found == str(hub.cached_file(hub.parse(f'{SPEC}@v2')))
    (repository,) = huggingface_hub.scan_cache_dir(tmp_path / 'hub').repos
    assert repository.repo_id == 'me/tiny' and {file.file_name for file in next(iter(repository.revisions)).files} == {
        MODEL, 'README.md', 'config.json'
    }  # fmt: skip


def test_a_terminal_sees_a_bar(site, monkeypatch, capsys):
    tiny(site)
    bars = []

    class Bar:
        def __init__(self, total, what, **settings):
            bars.append([total, what, settings])

        def add(self, count):
            bars[0].append(count)

        def close(self):
            bars[0].append('closed')

    monkeypatch.setattr(download.progress, 'Bar', Bar)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    assert weights.missing(SPEC) is None
    (bar,) = bars
    assert bar[:2] == [len(BODY), 'weights hf://me/tiny'] and bar[2]['unit'] == 'MB'
    assert sum(bar[3:-1]) == len(BODY) and bar[-1] == 'closed'
    assert '%' not in capsys.readouterr().err  # no bar of huggingface_hub's beside it


@pytest.mark.parametrize(
    ('card', 'licence'),
    [({}, 'licence not stated'), ({'license': 'other', 'license_name': 'dinov3-license'}, 'licence dinov3-license')],
)
def test_the_licence_is_said_before_the_download(site, capsys, card, licence):
    tiny(site, card=card)
    assert weights.missing(SPEC) is None
    assert capsys.readouterr().err.splitlines()[0].endswith(f', {licence}')


def test_small_weights_and_mirrors_without_hashes(site):
    tiny(site, large=())  # in git itself, whose hash is another
    assert weights.missing(SPEC) is None
    site.add('me/plain', {MODEL: BODY}, large=(MODEL,), listed=False)
    assert weights.missing('hf://me/plain') is None
    site.add('me/empty', {MODEL: b''})
    assert weights.missing('hf://me/empty') is None


GET = f"from mixjax.models import weights; print(weights.missing('{SPEC}'))"


def start_getting(**settings):
    return subprocess.Popen([sys.executable, '-c', GET], env=environment(), text=True, **settings)


def test_several_processes_download_once(site):
    repository = tiny(site, stall={MODEL: 100_000})
    first = start_getting(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert repository.stalled.wait(60)
    second = start_getting(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert second.stderr.readline() == 'weights hf://me/tiny: another process is downloading them; waiting for it\n'
    repository.go.set()
    for process in (first, second):
        assert process.communicate(timeout=60)[0] == 'None\n'
    assert len(gets(site)) == 1


def test_a_process_that_is_killed_leaves_what_it_has(site, tmp_path):
    repository = tiny(site, stall={MODEL: 500_000})
    process = start_getting(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert repository.stalled.wait(60)
    until = time.monotonic() + 30
    while not (parts(tmp_path) and parts(tmp_path)[0].stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    repository.go.set()
    have = parts(tmp_path)[0].stat().st_size
    assert 0 < have <= 500_000 and hub.cached_file(hub.parse(SPEC)) is None
    site.asked.clear()
    assert weights.missing(SPEC) is None and gets(site)[0].endswith(f' bytes={have}-')
    assert weights.load(SPEC).tensors['fc.weight'][-1] == 299_999


def test_the_first_process_of_a_run_goes_ahead(monkeypatch):
    config = config_lib.load('quickstart', [('model.weights', SPEC)])
    asked = []
    monkeypatch.setattr(shared.weights, 'missing', lambda spec: asked.append(spec))
    shared.preflight(config)
    assert asked == [SPEC, SPEC]  # the first of all; then each looks, and may be on another disk
    monkeypatch.setattr(processes, 'from_first', lambda make: 'no network there')
    with pytest.raises(UserError, match='no network there'):
        shared.preflight(config)
    assert asked == [SPEC, SPEC]  # the others do not try what it could not do


# --- breaks -----------------------------------------------------------------------------------------------------------


def test_a_break_is_mended_at_once(site, capsys):
    tiny(site, cut={MODEL: 500_000})
    assert weights.missing(SPEC) is None
    assert site.sent < len(BODY) + 1000 and gets(site)[1].endswith(' bytes=500000-')
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_download_goes_on_where_an_earlier_one_ended(site, tmp_path, capsys):
    repository = tiny(site, cut={MODEL: 500_000})
    _Dead.after = 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, '_stream', _Dead(download._stream))
        text = str(weights.missing(SPEC))
    assert text == (
        'weights hf://me/tiny: the connection was lost after 0.5 MB of 1.2 MB of model.safetensors; give the same '
        'command again, and it goes on from there'
    )
    assert hub.cached_file(hub.parse(SPEC)) is None and [path.stat().st_size for path in parts(tmp_path)] == [500_000]
    capsys.readouterr()
    site.asked.clear()
    assert repository.cut == {} and weights.missing(SPEC) is None
    assert '1.2 MB (0.5 MB of them are here already), licence mit' in capsys.readouterr().err
    assert [line.rpartition(' ')[2] for line in gets(site)] == ['bytes=500000-']
    assert weights.load(SPEC).tensors['fc.weight'][-1] == 299_999 and not parts(tmp_path)


class _Dead:
    """A network that is gone after the first request."""

    after = 1

    def __init__(self, stream):
        self.stream, self.count = stream, 0

    def __call__(self, *given):
        self.count += 1
        if self.count >= self.after:
            raise ConnectionResetError('gone')
        return self.stream(*given)


def test_a_server_without_ranges_sends_all_again(site):
    tiny(site, cut={MODEL: 500_000}, ranges=False)
    assert weights.missing(SPEC) is None
    path = hub.cached_file(hub.parse(SPEC))
    assert path is not None and path.read_bytes() == BODY


@pytest.mark.parametrize('wrong', [BODY[:-1] + b'\xff', BODY + b'more'])
def test_a_damaged_download_is_deleted(site, tmp_path, wrong):
    repository = tiny(site, wrong={MODEL: wrong})
    text = str(weights.missing(SPEC))
    assert 'model.safetensors came damaged, its content is not what the hub lists; it was deleted' in text
    assert '\n' not in text and not parts(tmp_path) and hub.cached_file(hub.parse(SPEC)) is None
    repository.wrong.clear()
    assert weights.missing(SPEC) is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def sentence(spec=SPEC):
    text = str(weights.missing(spec))
    assert text.startswith(f'weights {spec}: ') and '\n' not in text
    return text.removeprefix(f'weights {spec}: ')


def test_what_is_not_there(site, monkeypatch):
    tiny(site)
    text = 'the hub has no repository me/none that you may see; check the name, or if it is private log in with '
    assert sentence('hf://me/none') == f'{text}`hf auth login`'
    monkeypatch.setenv('HF_TOKEN', 'hf_x')
    assert 'check the name, and whether your account (`hf auth whoami`) may read it' in sentence('hf://me/none')
    text = sentence('hf://me/tiny@v9')
    assert text.startswith("me/tiny has no revision 'v9'; leave it out for the newest, or take a branch, tag or commit")
    assert text.endswith(f'{site.address}/me/tiny/commits/main')
    assert sentence('hf://me/a--b') == 'me/a--b cannot be the name of a repository'


def test_a_private_repository(site, monkeypatch):
    tiny(site, access='private')
    assert 'no repository me/tiny that you may see; check the name, or if it is private log in' in sentence()
    monkeypatch.setenv('HF_TOKEN', 'hf_x')
    assert weights.missing(SPEC) is None


def test_a_gated_repository(site, monkeypatch):
    repository = tiny(site, access='gated')
    accept = f'access needs consent to their licence; accept it at {site.address}/me/tiny, then '
    assert sentence() == f'{accept}log in with `hf auth login`, and give the same command again'
    monkeypatch.setenv('HF_TOKEN', 'hf_x')
    repository.access = 'refused'
    assert sentence() == f'{accept}give the same command again'
    repository.access = 'gated'
    assert weights.missing(SPEC) is None
    assert any('/store/' in line for line in site.asked)
    assert site.signed and not any('/store/' in path for path in site.signed)  # the store sees no token


def test_a_repository_without_weights_says_what_it_holds(site):
    site.add(
        'me/tiny', {'README.md': b'', 'open_clip_pytorch_model.bin': b'', **{f'{n:02}.txt': b'' for n in range(30)}}
    )
    text = sentence()
    assert text.startswith(
        'me/tiny has none of model.safetensors, model.safetensors.index.json, pytorch_model.bin; it '
    )
    assert 'it holds 00.txt, 01.txt, ' in text and text.endswith(', 19.txt, and 12 more')


@pytest.mark.parametrize(
    ('status', 'said'),
    [
        (403, 'your token may not read me/tiny'),
        (500, 'the hub answers with error 500'),
        (429, 'the hub answers with error 429'),
    ],
)
def test_other_answers(site, status, said):
    tiny(site, status=status)
    assert said in str(weights.missing(SPEC))


def test_a_hub_that_is_none(site, monkeypatch):
    site.add('me/tiny', {})
    monkeypatch.setattr(loopback_hub, 'COMMIT', '../../up')
    assert 'what answered is not a hub' in str(weights.missing(SPEC))


def test_no_space(site, tmp_path, monkeypatch):
    tiny(site)
    usage = download.shutil.disk_usage(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download.shutil, 'disk_usage', lambda path: usage._replace(free=50_500_000))
        text = sentence()
    assert f'no space for them in {tmp_path}/hub (1.2 MB are missing, and there are 50 MB free); make room' in text
    assert 'set HF_HOME to a folder on a larger disk' in text and not gets(site)

    def full(path):
        if path.name.endswith('.incomplete'):
            raise OSError(download.errno.ENOSPC, os.strerror(download.errno.ENOSPC), str(path))
        return opened(path)

    opened = storage.open_append
    monkeypatch.setattr(storage, 'open_append', full)
    assert 'there is no space for them' in sentence() and 'No space left on device' in sentence()


def test_a_cache_that_cannot_be_written(site, tmp_path):
    tiny(site)
    (tmp_path / 'hub').write_text('a file')
    text = sentence()
    assert (
        f'they cannot be kept in {tmp_path}/hub (' in text and 'set HF_HOME to a folder that you may write to' in text
    )


def test_offline(site, monkeypatch):
    tiny(site)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert 'no such copy, and HF_HUB_OFFLINE forbids a download\n' in str(weights.missing(SPEC)) and not site.asked
    monkeypatch.delenv('HF_HUB_OFFLINE')
    assert weights.missing(SPEC) is None
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert weights.missing(SPEC) is None


# --- what the files beside the weights say ----------------------------------------------------------------------------


def test_the_images_are_known_before_the_weights_are_here(site):
    facts = {
        'input_size': [3, 96, 96],
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': [0.5] * 3,
        'std': [0.5] * 3,
    }
    beside = json.dumps({'architecture': 'resnet18', 'pretrained_cfg': facts}).encode()
    site.add('me/tiny', {MODEL: BODY, 'config.json': beside}, large=(MODEL,))
    want = preprocessing.settings(96, 1.0, 'bicubic', preprocessing.HALF)
    assert weights.image(SPEC, 'resnet18') == want
    assert not gets(site) and hub.cached_file(hub.parse(SPEC)) is None
    count = len(site.asked)
    assert weights.image(SPEC, 'resnet18') == want and len(site.asked) == count
    assert weights.missing(SPEC) is None and weights.image(SPEC, 'resnet18') == want
    assert weights.image('hf://me/none', 'resnet18') == models.image_settings('resnet18')


def test_the_network_is_the_one_that_the_weights_name(site):
    tiny(site)
    with pytest.raises(UserError, match="of a 'resnet18', and config.model.name is 'resnet50'; set it to resnet18$"):
        weights.fitted(SPEC, weights.load(SPEC), 'resnet50', {})
    with pytest.raises(UserError, match="are of a 'resnet18', not of a 'resnet34'; leave the name out"):
        models.read(SPEC, 'resnet34')
    with pytest.raises(UserError, match='resnet18') as error:  # found by itself; the tensors are not its
        models.read(SPEC)
    assert 'which network' not in str(error.value)
    site.add('me/odd', {MODEL: BODY, 'config.json': b'{"architecture": "levit_128"}'})
    with pytest.raises(UserError, match="of a 'levit_128', and .* is 'resnet50'; mixjax has no such network$"):
        weights.fitted('hf://me/odd', weights.load('hf://me/odd'), 'resnet50', {})


EMBEDDED = ROOT / 'mixjax' / 'models'
CONFIG = """
from mixjax.config import base

def get_config():
    config = base()
    config.model.name, config.target.name, config.target.per_class = 'glyphnet', 'digits', 3
    config.num_seeds, config.eval_every, config.image.pad, config.image.flip = 1, 2, 2, False
    return config
"""


def glyphnet(site):
    files = {MODEL: (EMBEDDED / 'glyphnet.safetensors').read_bytes()}
    files['model.json'] = json.dumps(
        {**json.loads((EMBEDDED / 'glyphnet.json').read_text()), 'licence': 'mit'}
    ).encode()
    site.add('me/glyphnet', files, large=(MODEL,))


def test_a_network_of_mixjax_from_the_hub(site):
    glyphnet(site)
    found = models.read('hf://me/glyphnet')
    assert found.about.name == 'glyphnet' and found.about.image['crop'] == 16
    import jax.numpy as jnp

    began = start_lib.pretrained('hf://me/glyphnet', found.net, 'glyphnet', jnp.zeros((1, 16, 16, 1)))
    assert began.note.endswith(
        "; its classifier of 160 classes becomes the head 'source'; the target's is new; licence mit"
    )
    assert began.licence == 'mit'


def test_the_first_command_just_works(site, tmp_path, monkeypatch):
    glyphnet(site)
    (tmp_path / 'two.py').write_text(CONFIG)
    words = ('--config=two.py', '--workdir=out', '--config.model.weights=hf://me/glyphnet', '--config.steps=2')
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert 'weights hf://me/glyphnet: downloading me/glyphnet, revision main' in done.stderr
    assert '; licence mit' in done.stdout
    said = json.loads((tmp_path / 'out' / 'model.json').read_text())
    assert said['licence'] == 'mit' and said['model'] == 'glyphnet'
    asked = len(site.asked)
    again = call(tmp_path, *words)
    assert again.returncode == 0 and 'downloading' not in again.stderr and len(site.asked) == asked
    wrong = call(tmp_path, *words[:1], '--workdir=other', '--config.model.weights=hf://me/none')
    assert wrong.returncode == 2 and 'weights hf://me/none: the hub has no repository me/none' in wrong.stderr
    assert 'Traceback' not in wrong.stderr and not (tmp_path / 'other').exists()


# --- several files ----------------------------------------------------------------------------------------------------

ONE = {'a': np.ones(3, np.float32), 'b': np.zeros(2, np.float32)}
TWO = {'c': np.full((2, 2), 7, np.float32)}


def sharded(**changes):
    first, second = 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'
    where = {'a': first, 'b': first, 'c': second}
    index = {'metadata': {'total_size': 36}, 'weight_map': {**where, **changes}}
    return {shards.INDEX: json.dumps(index).encode(), first: save(ONE), second: save(TWO)}


def test_weights_in_several_files_are_downloaded_and_read_as_one(site, capsys):
    files = sharded()
    large = tuple(name for name in files if name != shards.INDEX)
    repository = site.add('me/tiny', files, large=large, wrong={large[1]: b'x' * len(files[large[1]])})
    assert 'came damaged' in str(weights.missing(SPEC)) and hub.cached_file(hub.parse(SPEC)) is None
    repository.wrong.clear()
    assert weights.missing(SPEC) is None
    assert len(gets(site, large[0])) == 1  # the first file was whole
    assert ', 2 files, 0.0 MB, licence not stated' in capsys.readouterr().err
    loaded = weights.load(SPEC)
    assert loaded.tensors.keys() == {'a', 'b', 'c'} and not loaded.own
    np.testing.assert_array_equal(loaded.tensors['c'], TWO['c'])
    path = hub.cached_file(hub.parse(SPEC))
    assert path is not None and path.name == shards.INDEX
    (path.parent / large[1]).unlink()
    assert hub.cached_file(hub.parse(SPEC)) is None and weights.missing(SPEC) is None


def test_an_index_of_the_hub_that_names_what_is_not_there(site):
    files = sharded()
    files.pop('model-00002-of-00002.safetensors')
    site.add('me/tiny', files)
    assert 'names model-00002-of-00002.safetensors, which me/tiny does not hold' in sentence()
    site.add('me/bad', sharded(c='../../up.safetensors'))
    assert 'model.safetensors.index.json cannot be read (it names ' in sentence('hf://me/bad')


def put(folder, files):
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return str(folder)


def test_a_folder_of_several_files(tmp_path):
    spec = put(tmp_path, sharded())
    for each in (spec, f'{spec}/{shards.INDEX}'):
        assert weights.missing(each) is None and weights.load(each).tensors.keys() == {'a', 'b', 'c'}
    (tmp_path / 'model-00002-of-00002.safetensors').unlink()
    assert 'are not whole: model.safetensors.index.json names model-00002-of-00002.safetensors' in str(
        weights.missing(spec)
    )
    (tmp_path / MODEL).write_bytes(save(TWO))  # one whole file goes before an index
    assert weights.load(spec).tensors.keys() == {'c'}


@pytest.mark.parametrize(
    'index',
    [
        b'', b'[]', b'{}', b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a": 3}}', b'[' * 100_000,
        *(json.dumps({'weight_map': {'a': name}}).encode() for name in (
            '../x.safetensors', '/etc/x.safetensors', 'x/y.safetensors', '.safetensors', '..safetensors', 'x.bin',
            'x\x00.safetensors', 'x\n.safetensors', 'model.safetensors.index.json', 'ä.safetensors', '.h.safetensors',
        )),
        json.dumps({'weight_map': {str(n): f'{n}.safetensors' for n in range(1001)}}).encode(),
    ],
)  # fmt: skip
def test_an_index_that_is_none(tmp_path, index):
    spec = put(tmp_path, {shards.INDEX: index})
    assert weights.missing(spec) is None
    with pytest.raises(UserError, match=r'model.safetensors.index.json is no index of whole files \('):
        weights.load(spec)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'d': 'model-00002-of-00002.safetensors'}, 'differ about the tensor d'),
        ({'b': 'model-00002-of-00002.safetensors'}, 'differ about the tensor b'),
    ],
)
def test_each_tensor_is_where_the_index_says(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        weights.load(put(tmp_path, sharded(**change)))


def test_files_of_an_index_that_are_damaged(tmp_path, monkeypatch):
    spec = put(tmp_path, sharded())
    (tmp_path / 'model-00002-of-00002.safetensors').write_bytes(b'short')
    with pytest.raises(UserError, match='is no index of whole files'):
        weights.load(spec)
    put(tmp_path, sharded())
    monkeypatch.setattr(loading, '_memory', lambda: len(save(ONE)) + len(save(TWO)) - 1)  # enough for each of them
    with pytest.raises(UserError, match='they need more memory than there is'):
        weights.load(spec)
