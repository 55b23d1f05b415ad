"""What is sent to the hub: the files of an export and nothing else, once, and never without a word."""

import json

import pytest

from mixjax.errors import UserError
from mixjax.export import network, push, write
from tests.support import loopback_hub
from tests.support.common import call

GLYPHS = 'embedded://glyphnet'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """An export, with a file of the user's in its folder."""
    folder = tmp_path_factory.mktemp('export') / 'out'
    write.export(network.read(GLYPHS, images=2), 'safetensors', folder)
    (folder / 'holiday.jpg').write_bytes(b'mine')
    return folder


@pytest.fixture
def hub(monkeypatch):
    with loopback_hub.running() as server:
        monkeypatch.setenv('HF_ENDPOINT', server.address)
        monkeypatch.setenv('HF_TOKEN', 'hf_of_a_test')
        monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)  # read when it was imported
        yield server


def test_the_files_of_the_export_arrive_in_one_commit(made, hub):
    what = push.parcel(made, 'hf://me/letters', private=True)
    assert push.send(what) == f'{hub.address}/me/letters'
    there = hub.repositories['me/letters']
    names = {'model.safetensors', 'model.json', 'README.md'}
    assert set(there.files) == names and there.messages == [push.MESSAGE] and there.private
    for name in names:
        assert there.files[name] == (made / name).read_bytes()
    push.send(push.parcel(made, 'hf://me/letters', private=True))  # the repository is there already
    assert len(there.messages) == 2


def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(made, hub, tmp_path):
    done = call(tmp_path, 'push', str(made), 'hf://me/letters', '--dry-run', module='mixjax')
    assert done.returncode == 0, done.stderr
    assert 'to hf://me/letters, a public repository if it is new:' in done.stdout and 'nothing was sent' in done.stdout
    assert 'model.safetensors' in done.stdout and 'holiday.jpg' not in done.stdout
    assert hub.asked == [] and hub.repositories == {}


@pytest.mark.parametrize(
    ('status', 'words'),
    [(401, 'hf auth login'), (403, 'your token may not write to me/letters'), (500, 'error 500')],
)
def test_a_hub_that_refuses_ends_in_a_sentence(made, hub, status, words):
    hub.writes = status
    with pytest.raises(UserError, match=words) as caught:
        push.send(push.parcel(made, 'hf://me/letters', private=False))
    assert 'hf_of_a_test' not in str(caught.value) and hub.repositories == {}


def test_without_a_token_or_a_hub_nothing_is_sent(made, hub, monkeypatch, tmp_path):
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    with pytest.raises(UserError, match='hf auth login'):
        push.send(push.parcel(made, 'hf://me/letters', private=False))
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')  # where nobody listens
    with pytest.raises(UserError, match='cannot be reached'):
        push.send(push.parcel(made, 'hf://me/letters', private=False))


@pytest.mark.parametrize('address', ['me/letters', 'hf://letters', 'hf://me/../letters', 'hf://me/le tters', 'hf:///x'])
def test_an_address_is_an_owner_and_a_name(made, address):
    with pytest.raises(UserError, match='write hf://OWNER/NAME'):
        push.parcel(made, address, private=False)


def test_what_is_no_whole_export_is_not_sent(made, tmp_path):
    with pytest.raises(UserError, match='no export of mixjax'):
        push.parcel(tmp_path, 'hf://me/letters', private=False)
    (tmp_path / write.RECORD).write_text(json.dumps({'files': ['model.safetensors']}))
    with pytest.raises(UserError, match='lacks model.safetensors'):
        push.parcel(tmp_path, 'hf://me/letters', private=False)
    (tmp_path / write.RECORD).write_text(json.dumps({'files': ['../secret']}))
    with pytest.raises(UserError, match='damaged'):
        push.parcel(tmp_path, 'hf://me/letters', private=False)
