"""Access, requests, limits, sizes of batches and metrics: each by itself."""

import base64
import json
import math

import pytest

from mixjax.commands import serve as command
from mixjax.errors import UserError
from mixjax.serve import access, asked, metrics, served
from mixjax.serve.access import Access
from mixjax.serve.asked import Asked
from mixjax.serve.room import Limits, Refused, Room

HERE, TOKEN = Access(True, ''), 'a-token-of-24-characters'


def refused(call, *given):
    with pytest.raises(Refused) as error:
        call(*given)
    assert error.value.sentence and '\n' not in error.value.sentence and not error.value.sentence.endswith('.')
    return error.value


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('host', ['localhost', 'localhost:8000', '127.0.0.1', '127.0.0.1:1', '[::1]:80', '127.9.9.9',
                                  'LocalHost:80'])  # fmt: skip
def test_names_of_this_machine(host):
    HERE.check('/predict', {'host': host})


@pytest.mark.parametrize('host', ['', 'evil.example', 'evil.example:8000', 'localhost.evil.example', '127.0.0.1.nip.io',
                                  '10.0.0.1', '[::2]', '[::1', 'localhost:x@evil', 'evil@localhost.example', '0.0.0.0',
                                  'a\0b', '127.0.0.1 evil', 'evil@localhost'])  # fmt: skip
def test_foreign_names_are_refused_against_dns_rebinding(host):
    assert refused(HERE.check, '/', {'host': host}).status == 403


@pytest.mark.parametrize('origin', ['http://localhost:8000', 'https://localhost:8000', 'HTTP://LOCALHOST:8000'])
def test_the_own_origin(origin):
    HERE.check('/predict', {'host': 'localhost:8000', 'origin': origin})


@pytest.mark.parametrize('origin', ['null', '', 'http://evil.example', 'http://localhost:8001', 'http://localhost',
                                    'http://localhost:8000.evil.example', 'file://localhost:8000', 'http://[::1',
                                    'http://evil@localhost:8000'])  # fmt: skip
def test_pages_of_other_sites_are_refused(origin):
    found = refused(HERE.check, '/predict', {'host': 'localhost:8000', 'origin': origin})
    assert found.status == 403 and 'other sites' in found.sentence


def test_the_token():
    rules = access.rules('192.0.2.1', TOKEN)
    assert rules == (False, TOKEN)
    for path in access.OPEN:
        rules.check(path, {'host': 'anything'})
    for path in ('/predict', '/models', '/metrics', '/nowhere'):
        rules.check(path, {'host': 'x', 'authorization': f'Bearer {TOKEN}'})
        rules.check(path, {'host': 'x', 'authorization': f'Bearer {TOKEN}', 'origin': 'https://proxy.example'})
        rules.check(path, {'host': 'x', 'authorization': f'bearer {TOKEN}'})
        for wrong in ('', TOKEN, f'Basic {TOKEN}', 'Bearer', f'Bearer {TOKEN}x', f'Bearer {TOKEN[:-1]}', 'Bearer \xff'):
            found = refused(rules.check, path, {'host': 'x', 'authorization': wrong})
            assert found.status == 401 and found.headers == {'WWW-Authenticate': 'Bearer'}


def test_a_token_is_made_for_every_address_but_the_loopback_one():
    assert access.rules('127.0.0.1', '') == access.rules('::1', '') == (True, '')
    assert access.rules('127.0.0.1', TOKEN) == (True, TOKEN)
    made = [access.rules(address, '').token for address in ('0.0.0.0', '::', '192.0.2.1', 'fe80::1%eth0')]
    assert len(set(made)) == 4 and all(len(token) >= 32 for token in made)
    for bad in ('short', 'x' * 15, 'with a space in the middle', 'm\xfcller-m\xfcller-m\xfcller', 'x' * 20 + '\n'):
        with pytest.raises(UserError, match='--token must be at least 16'):
            access.rules('127.0.0.1', bad)


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_kinds_of_bodies():
    assert asked.kind_of('image/jpeg') == asked.kind_of('Application/Octet-Stream; x=y') == asked.IMAGES
    assert asked.kind_of('application/json; charset=utf-8') == asked.JSON
    # Those that a form of another site can send without asking are among the others.
    for other in ('', 'text/plain', 'multipart/form-data; boundary=x', 'application/x-www-form-urlencoded', 'image'):
        assert refused(asked.kind_of, other).status == 415


def test_one_image_with_settings_in_the_address():
    assert asked.of_image(b'x', []) == Asked([b'x'], 5, False, ())
    query = [('top', '3'), ('why', '1'), ('model', 'a'), ('model', 'b'), ('model', 'a')]
    assert asked.of_image(b'x', query) == Asked([b'x'], 3, True, ('a', 'b'))
    for wrong in (('top', 'x'), ('top', '-1'), ('top', '\u0663'), ('why', 'perhaps'), ('wy', '1')):
        assert refused(asked.of_image, b'x', [wrong]).status == 400
    assert refused(asked.of_image, b'x', [('top', '0')]).sentence == '"top" must be at least 1, not 0'


def test_json():
    one = base64.b64encode(b'one').decode()
    found = asked.of_json(json.dumps({'images': [one, one], 'top': 2, 'why': True, 'models': ['a']}).encode())
    assert found == Asked([b'one', b'one'], 2, True, ('a',))
    assert asked.of_json(b'{"images": ["AAAA"]}') == Asked([b'\0\0\0'], 5, False, ())


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        (b'', 'not JSON'), (b'{', 'not JSON'), (b'\xff', 'not JSON'), (b'[' * 200_000, 'nested too deeply'),
        (b'[]', 'the JSON must be'), (b'{"images": 3}', 'the JSON must be'), (b'{"images": []}', 'has no image'),
        (b'{"images": [3]}', 'image 1 is not a text'), (b'{"images": ["AAAA", "A"]}', 'image 2 is not base64'),
        (b'{"images": ["data:image/png;base64,AAAA"]}', 'without data:..'), (b'{"images": ["\\u00e9"]}', 'not base64'),
        (b'{"images": ["AAAA"], "top": true}', 'whole number'), (b'{"images": ["AAAA"], "top": 1.5}', 'whole number'),
        (b'{"images": ["AAAA"], "top": -1}', 'at least 1'), (b'{"images": ["AAAA"], "why": 1}', 'true or false'),
        (b'{"images": ["AAAA"], "models": "a"}', 'list of names'), (b'{"images": ["AAAA"], "models": [1]}', 'of names'),
        (b'{"images": ["AAAA"], "tops": 1}', "did you mean 'top'"), (b'{"images": ["AAAA"], "\\u001b[2J": 1}', '?[2J'),
    ],
)  # fmt: skip
def test_wrong_json(body, words):
    found = refused(asked.of_json, body)
    assert found.status == 400 and words in found.sentence


def test_named_networks():
    assert asked.chosen({'a': 1, 'b': 2}, ()) == [1, 2] and asked.chosen({'a': 1, 'b': 2}, ['b']) == [2]
    found = refused(asked.chosen, {'dogs': 1}, ['dog'])
    assert found.status == 404 and "did you mean 'dogs'" in found.sentence


# --- how much fits ----------------------------------------------------------------------------------------------------


def test_room_is_taken_and_given_back():
    room = Room(Limits(body=10, bodies=15, images=3, queue=4))
    one, two = room.ticket(), room.ticket()
    one.take_bytes(6)
    one.take_bytes(4)
    assert refused(one.take_bytes, 1).status == 413
    two.take_bytes(5)
    found = refused(two.take_bytes, 1)
    assert found.status == 503 and found.headers == {'Retry-After': '1'}
    one.take_images(3)
    assert refused(two.take_images, 4).status == 413
    assert refused(two.take_images, 2).status == 503
    two.take_images(1)
    assert (room.images, room.bytes) == (4, 15)
    one.close()
    one.close()
    assert (room.images, room.bytes) == (1, 5)
    two.close()
    assert (room.images, room.bytes) == (0, 0)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('most', [1, 2, 5, 16, 64])
def test_parts_hold_all_images_and_waste_less_than_half(most):
    known = served.sizes(most)
    assert known[0] == 1 and known[-1] == most and len(known) <= 1 + math.ceil(math.log(most, 4))
    for count in range(1, 3 * most):
        found = served.parts(count, known)
        assert set(found) <= set(known) and count <= sum(found) <= 2 * count
        assert sum(found[:-1]) < count  # none is empty


def test_sizes_are_used_where_they_save_time():
    assert served.useful({1: 0.03, 4: 0.12, 16: 0.6}) == (1,)
    assert served.useful({1: 1.0, 4: 1.1, 16: 1.6}) == (1, 4, 16)
    assert served.useful({1: 1.0, 4: 3.9, 16: 8.0}) == (1, 16)  # the one in between does not


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_by_hand():
    found = metrics.Metrics()
    for seconds in (0.004, 0.005, 0.3, 99):
        found.request('/predict', 200, seconds)
    found.request('/predict', 503, 0.1)
    found.request('other', 404, 0.1)
    found.batch('a "b"\n', 3)
    found.batch('a "b"\n', 16)
    lines = found.text({'some': ('Help.', lambda: 2.5)}).splitlines()
    assert 'mixjax_requests_total{path="/predict",code="200"} 4' in lines
    assert 'mixjax_requests_total{path="/predict",code="503"} 1' in lines
    assert 'mixjax_requests_total{path="other",code="404"} 1' in lines
    for bound, count in (('0.005', 2), ('0.25', 2), ('0.5', 3), ('30', 3), ('+Inf', 4)):
        assert f'mixjax_request_seconds_bucket{{le="{bound}"}} {count}' in lines
    assert 'mixjax_request_seconds_count 4' in lines and 'mixjax_request_seconds_sum 99.309' in lines
    label = r'model="a \"b\"\n"'
    assert f'mixjax_batch_images_bucket{{{label},le="4"}} 1' in lines
    assert f'mixjax_batch_images_bucket{{{label},le="16"}} 2' in lines
    assert f'mixjax_images_total{{{label}}} 19' in lines and found.images == 19
    assert lines[-3:] == ['# HELP some Help.', '# TYPE some gauge', 'some 2.5']


# --- the command ------------------------------------------------------------------------------------------------------


def test_names_of_networks_differ(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ['runs/a', 'other/a', 'b/model.safetensors', 'embedded://glyphnet', '.', 'a/', 'x/../a']
    assert command.names(words) == ['a', 'a-2', 'b', 'glyphnet', tmp_path.name, 'a-3', 'a-4']
