"""A real server in this process, with real networks and with ones that wait: every route, every status."""

import base64
import dataclasses
import io
import itertools
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mixjax
from mixjax.analysis import explain, neighbours
from mixjax.serve import app, served
from mixjax.serve.room import Limits
from mixjax.serve.served import Served
from mixjax.tasks import MULTI_LABEL, REGRESSION, Scale
from tests.support.http_server import Fake, ask, serving
from tests.support.page import Page
from tests.support.photos import png

LIMITS = Limits(batch=4, images=3, body=1 << 20, pixels=90_000, queue=64, workers=2)
TOKEN = 'a-token-of-24-characters'


@pytest.fixture(scope='module')
def model(digits_run):
    return mixjax.load(digits_run, batch=4)


@pytest.fixture(scope='module')
def here(digits_run, model):
    """A server with the network of the digits, and with the one of the letters."""
    labelled = neighbours.labelled_images(str(digits_run), model)

    def make(limits, metrics):
        letters = mixjax.load('embedded://glyphnet')
        return [Served('digits', model, labelled, limits, metrics), Served('letters', letters, None, limits, metrics)]

    with pytest.MonkeyPatch.context() as patch:  # which batches are worth it is measured, and others run here too
        patch.setattr(served, 'useful', tuple)
        with serving(make, LIMITS) as running:
            yield running


@pytest.fixture(scope='module')
def digit(digits_run):
    """The bytes of a labelled digit."""
    return (digits_run.parent / 'photos' / '3' / '0.png').read_bytes()


def sentence(answer, status, words):
    assert answer.status == status, answer
    assert set(answer.body) == {'error'} and words in answer.body['error'] and '\n' not in answer.body['error']
    return answer


# --- predictions ------------------------------------------------------------------------------------------------------


def test_the_bytes_of_an_image(here, model, digit):
    answer = here.ask('/predict?top=2', digit, Content_Type='image/png')
    assert answer.status == 200 and list(answer.body) == ['images', 'seconds']
    ((digits, letters),) = [one['models'] for one in answer.body['images']]
    assert (digits['model'], letters['model']) == ('digits', 'letters')
    wanted = model.as_data(model.probabilities([digit])[0], 2)['top']
    assert [one['class'] for one in digits['top']] == [one['class'] for one in wanted]
    np.testing.assert_allclose([one['probability'] for one in digits['top']],
                               [one['probability'] for one in wanted], atol=1e-6)  # fmt: skip
    assert digits['unknown'] is False and 'why' not in digits and len(letters['top']) == 2


def test_json_with_several_images(here, model, digit):
    images = [digit, png(1), png(2, (90, 20))]
    body = {'images': [base64.b64encode(one).decode() for one in images], 'top': 4, 'models': ['digits']}
    answer = here.ask('/predict', json.dumps(body).encode(), Content_Type='application/json')
    assert answer.status == 200
    for found, row in zip(answer.body['images'], model.probabilities(images), strict=True):
        (one,) = found['models']
        assert [each['class'] for each in one['top']] == [model.classes[k] for k in np.argsort(-row)]
        np.testing.assert_allclose([each['probability'] for each in one['top']], sorted(-row) @ -np.eye(4), atol=1e-6)


def test_why(here, digits_run, model, digit):
    answer = here.ask('/predict?why=1&top=1', digit)
    digits, letters = answer.body['images'][0]['models']
    why = digits['why']
    assert why['class'] == digits['top'][0]['class'] and len(why['nearest']) == 5
    labelled = neighbours.labelled_images(str(digits_run), model)
    wanted = explain.explain(model, digit, labelled)
    assert digits['top'][0]['probability'] == pytest.approx(wanted.probability, abs=1e-6)
    for one, near in zip(why['nearest'], wanted.nearest, strict=True):
        assert (one['label'], one['similarity']) == (near.label, pytest.approx(near.similarity, abs=1e-5))
        with picture(one['image']) as small:
            assert max(small.size) <= served.SMALL
    with picture(why['map']) as shown:
        seen = np.asarray(shown).astype(int)
    assert seen.shape == wanted.overlay.shape
    assert np.abs(seen - wanted.overlay).mean() < 8  # JPEG
    assert letters['why']['nearest'] == [] and letters['why']['map'].startswith('data:image/jpeg;base64,')
    # Where the images are is nobody's business, and neither is where the run is.
    assert str(digits_run.parent) not in json.dumps(answer.body) and '.png' not in json.dumps(answer.body)


def picture(uri):
    head, _, data = uri.partition(',')
    assert head == 'data:image/jpeg;base64'
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_other_tasks_and_the_unknown(digits_run, model, digit):
    count = len(model.classes)
    several = dataclasses.replace(model, task=MULTI_LABEL)
    numbers = dataclasses.replace(model, task=REGRESSION, scale=Scale(np.zeros(count), np.ones(count)))
    careful = dataclasses.replace(model, threshold=0.9999999)

    def make(limits, metrics):
        kinds = {'several': several, 'numbers': numbers, 'careful': careful}
        return [Served(name, one, None, limits, metrics) for name, one in kinds.items()]

    with serving(make, LIMITS._replace(batch=1)) as running:
        body = running.ask('/predict?why=1', png(5)).body
        one, two, three = body['images'][0]['models']
        assert set(one) == {'model', 'labels', 'probabilities', 'why'} and len(one['probabilities']) == count
        assert one['why']['class'] == max(one['probabilities'], key=one['probabilities'].get)
        assert set(two) == {'model', 'numbers', 'why'} and 'no map' in two['why']['note'] and 'map' not in two['why']
        assert three['unknown'] is True and three['top'][0]['class'] == 'unknown'
        told = running.ask('/models').body['models']
        assert [one['task'] for one in told] == ['multi_label', 'regression', 'classification']
        assert [one['unknown'] for one in told] == [None, None, 'unknown']


def test_simultaneous_requests_are_joined_and_not_mixed_up(here, model):
    images = [png(seed) for seed in range(24)]
    wanted = model.probabilities(images)
    before = here.service.metrics.images
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: here.ask('/predict?top=4&model=digits', one), images))
    for answer, row in zip(answers, wanted, strict=True):
        found = {one['class']: one['probability'] for one in answer.body['images'][0]['models'][0]['top']}
        np.testing.assert_allclose([found[name] for name in model.classes], row, atol=1e-6)
    assert here.service.metrics.images == before + 24
    text = here.ask('/metrics').body.decode()
    batches = int(re.search(r'mixjax_batch_images_count\{model="digits"\} (\d+)', text)[1])
    images = int(re.search(r'mixjax_images_total\{model="digits"\} (\d+)', text)[1])
    assert batches < images


# --- the other routes -------------------------------------------------------------------------------------------------


def test_health_models_and_metrics(here, model):
    health = here.ask('/health')
    assert (health.status, health.body) == (200, {'status': 'ok', 'version': mixjax.__version__})
    told = here.ask('/models').body
    assert told['limits'] == {'bytes': 1 << 20, 'pixels': 90_000, 'images': 3}
    assert [(one['model'], one['labelled']) for one in told['models']] == [('digits', 20), ('letters', 0)]
    assert told['models'][0]['classes'] == list(model.classes)
    here.ask('/nowhere')
    text = here.ask('/metrics')
    assert text.headers['content-type'] == 'text/plain; version=0.0.4; charset=utf-8'
    lines = text.body.decode().splitlines()
    assert 'mixjax_requests_in_flight 1' in lines and 'mixjax_taken_images_limit 64' in lines
    assert any(line.startswith('mixjax_requests_total{path="other",code="404"}') for line in lines)
    named = {line.split()[2] for line in lines if line.startswith('# TYPE')}
    for line in lines:  # every number belongs to a family that has been named
        assert line.startswith('#') or re.match(r'(\w+?)(_bucket|_sum|_count)?(\{.*\})? -?[\d.e+-]+$', line)
        assert line.startswith('#') or any(line.startswith(name) for name in named)


def test_every_answer_has_the_headers_that_protect_a_page(here, digit):
    refused = here.ask('/', Host='evil.example')
    for answer in (here.ask('/'), here.ask('/predict', digit), here.ask('/nowhere'), refused):
        policy = answer.headers['content-security-policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy
        assert answer.headers['x-content-type-options'] == 'nosniff' and answer.headers['cache-control'] == 'no-store'
        assert 'server' not in answer.headers and 'access-control-allow-origin' not in answer.headers


def test_the_page_fetches_nothing_from_elsewhere(here):
    page = Page(here.ask('/').body.decode())
    assert {tag.attributes['src'] for tag in page.named('script')} == {'/page.js'}
    assert [tag.attributes.get('href') for tag in page.named('link')] == ['data:,', '/page.css']
    assert not page.named('style') and not any('style' in tag.attributes for tag in page.tags)
    assert not any(name.startswith('on') for tag in page.tags for name in tag.attributes)
    for path, kind in (('/page.js', 'text/javascript'), ('/page.css', 'text/css')):
        answer = here.ask(path)
        assert answer.headers['content-type'] == f'{kind}; charset=utf-8'
        assert not re.search(r'https?:|//\w+\.\w|@import|innerHTML|eval\(', answer.body.decode())
    for name in ('page.html', 'page.css', 'page.js'):
        assert app.file(name)


def test_wrong_paths_and_methods(here):
    sentence(here.ask('/nowhere'), 404, 'is not a path of this server')
    sentence(here.ask('/../../etc/passwd'), 404, 'is not a path')
    found = sentence(here.ask('/predict'), 405, 'GET is not a method of this path')
    assert found.headers['allow'] == 'POST'
    sentence(here.ask('/health', b'x'), 405, 'POST is not')
    sentence(here.ask('/predict', method='OPTIONS', Origin=f'http://127.0.0.1:{here.port}'), 405, 'OPTIONS is not')


# --- what is refused --------------------------------------------------------------------------------------------------


def test_foreign_names_and_pages_are_refused(here, digit):
    sentence(here.ask('/predict', digit, Host='evil.example'), 403, 'localhost')
    sentence(here.ask('/predict', digit, Origin='http://evil.example'), 403, 'other sites')
    sentence(here.ask('/predict', digit, Origin='null'), 403, 'other sites')
    assert here.ask('/predict', digit, Origin=f'http://127.0.0.1:{here.port}').status == 200
    assert here.ask('/predict', digit, Host=f'localhost:{here.port}').status == 200


def test_a_token_for_other_machines(digit):
    with serving(lambda *_: [Fake()], LIMITS, TOKEN, '192.0.2.1') as running:
        for path in ('/predict', '/models', '/metrics', '/nowhere'):
            answer = running.ask(path, digit if path == '/predict' else None)
            found = sentence(answer, 401, 'Authorization: Bearer TOKEN')
            assert found.headers['www-authenticate'] == 'Bearer'
        assert running.ask('/predict', digit, Authorization='Bearer wrong-wrong-wrong-wro').status == 401
        assert running.ask('/predict', digit, Authorization=f'Bearer {TOKEN}', Host='any.example').status == 200
        assert running.ask('/').status == running.ask('/page.js').status == running.ask('/health').status == 200


def test_what_is_not_an_image_is_one_sentence(here):
    sentence(here.ask('/predict', b'not an image'), 422, 'it is not a picture (JPEG')
    sentence(here.ask('/predict', b''), 422, 'it is empty')
    sentence(here.ask('/predict', png(1)[:-30]), 422, 'it is cut short or damaged')
    body = json.dumps({'images': [base64.b64encode(one).decode() for one in (png(1), b'x')]}).encode()
    sentence(here.ask('/predict', body, Content_Type='application/json'), 422, 'image 2: it is not a picture')
    sentence(here.ask('/predict', b'x', Content_Type='text/plain'), 415, 'Content-Type: image/jpeg')
    sentence(here.ask('/predict?why=perhaps', png(1)), 400, 'top=NUMBER')
    sentence(here.ask('/predict?model=digit', png(1)), 404, "did you mean 'digits'")
    sentence(here.ask('/predict', b'{', Content_Type='application/json'), 400, 'not JSON')


def test_what_is_too_large(here):
    sentence(here.ask('/predict', bytes(LIMITS.body + 1)), 413, 'larger than 1,048,576 bytes')
    chunks = itertools.repeat(bytes(1 << 16), 20)  # of no length that is said before
    sentence(here.ask('/predict', chunks), 413, 'larger than 1,048,576 bytes')
    sentence(here.ask('/predict', png(1, (300, 301))), 413, 'it has 90,300 pixels')
    assert here.ask('/predict', png(1, (300, 300))).status == 200
    images = [base64.b64encode(png(1)).decode()] * 4
    body = json.dumps({'images': images}).encode()
    sentence(here.ask('/predict', body, Content_Type='application/json'), 413, '4 images are too many')
    assert here.service.room.bytes == here.service.room.images == 0


def test_a_length_that_is_too_large_is_refused_before_it_is_sent(here):
    """With `Expect: 100-continue` a client waits for leave; it gets the refusal instead."""
    head = f'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {1 << 40}\r\n'
    data = here.raw(f'{head}Expect: 100-continue\r\nConnection: close\r\n\r\n'.encode())
    assert data.startswith(b'HTTP/1.1 413 ') and b'100 Continue' not in data


@pytest.mark.parametrize(
    'data',
    [
        b'nonsense\r\n\r\n', b'\x16\x03\x01\x02\x00', b'GET / HTTP/1.1\r\n\r\n',
        b'GET / HTTP/9.9\r\nHost: x\r\nConnection: close\r\n\r\n',
        b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n',
        b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
        b'POST /predict HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nContent-Length: 1\r\n\r\na',
        b'POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n',
        b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + b'x' * (1 << 20) + b'\r\n\r\n',
    ],
)  # fmt: skip
def test_what_is_not_http_is_refused_and_the_server_goes_on(here, data, capfd):
    found = here.raw(data, 30)
    assert re.match(rb'HTTP/1.1 (400|403)', found) or not found
    assert here.ask('/health').status == 200
    assert capfd.readouterr() == ('', '')  # a stranger does not fill the output


# --- too much at once, and too slow -----------------------------------------------------------------------------------


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_queue_is_refused_and_every_other_request_answered():
    go = threading.Semaphore(0)
    with serving(lambda *_: [Fake(go=go)], LIMITS._replace(queue=5)) as running, ThreadPoolExecutor(5) as pool:
        held = [pool.submit(running.ask, '/predict', png(1)) for _ in range(5)]
        until(lambda: running.service.room.images == 5)
        found = sentence(running.ask('/predict', png(1)), 503, 'the queue is full: 5 of 5 images are in it')
        assert found.headers['retry-after'] == '1'
        assert running.ask('/health').status == 200
        for _ in range(5):
            go.release()
        assert [one.result(30).status for one in held] == [200] * 5
        go.release()
        assert running.ask('/predict', png(1)).status == 200
        assert running.service.room.images == running.service.room.bytes == 0


def test_too_many_bytes_at_once_are_refused():
    go = threading.Semaphore(0)
    body = png(1)
    limits = LIMITS._replace(bodies=len(body) * 2)
    with serving(lambda *_: [Fake(go=go)], limits) as running, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(running.ask, '/predict', body) for _ in range(2)]
        until(lambda: running.service.room.images == 2)
        sentence(running.ask('/predict', body), 503, 'the requests of this moment are larger than')
        go.release()
        go.release()
        assert [one.result(30).status for one in held] == [200] * 2


def test_an_answer_that_takes_too_long_and_its_place_is_given_back_later():
    go = threading.Semaphore(0)
    with serving(lambda *_: [Fake(go=go)], LIMITS._replace(seconds=0.5, queue=1)) as running:
        sentence(running.ask('/predict', png(1)), 504, 'took longer than 0.5 seconds')
        sentence(running.ask('/predict', png(1)), 503, 'queue is full')  # its thread is still at work
        go.release()
        until(lambda: running.service.room.images == 0)
        go.release()
        assert running.ask('/predict', png(1)).status == 200


def test_images_that_nobody_waits_for_are_not_computed():
    go, fake = threading.Semaphore(0), Fake()
    fake.go = go
    with serving(lambda *_: [fake], LIMITS._replace(seconds=0.5)) as running:
        with ThreadPoolExecutor(4) as pool:
            held = [pool.submit(running.ask, '/predict', png(1)) for _ in range(4)]
            assert [one.result(30).status for one in held] == [504] * 4
        for _ in range(4):
            go.release()
        until(lambda: running.service.room.images == 0)
        assert len(fake.seen) == 1  # that which had begun


def test_a_request_that_does_not_arrive_is_ended():
    with serving(lambda *_: [Fake()], LIMITS._replace(seconds=0.5)) as running:
        head = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\n'
        data = running.raw(head + b'half', 30)
        assert data.startswith(b'HTTP/1.1 408 ') and b'did not arrive within 0.5 seconds' in data
        assert running.service.room.bytes == 0


def test_a_connection_that_says_nothing_or_half_a_line_is_cut(monkeypatch):
    monkeypatch.setattr('mixjax.serve.server.GRACE', 0.2)
    with serving(lambda *_: [Fake()], LIMITS._replace(seconds=0.3)) as running:
        for data in (b'GET / HT', b'GET / HTTP/1.1\r\nHost: loc'):
            began = time.monotonic()
            assert running.raw(data, 30) == b''
            assert time.monotonic() - began < 10
        assert running.ask('/health').status == 200


def test_one_connection_serves_many_requests(here, digit):
    import http.client

    connection = http.client.HTTPConnection('127.0.0.1', here.port, timeout=60)
    for _ in range(3):
        assert ask(connection, '/predict', digit).status == 200
        assert ask(connection, '/predict', b'no').status == 422
        assert ask(connection, '/predict', bytes(LIMITS.body + 1)).status == 413  # read to its end, and dropped
    connection.close()


def test_a_client_that_goes_away_is_no_error(here, capfd):
    import socket

    head = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\nhalf'
    with socket.create_connection(('127.0.0.1', here.port)) as connection:
        connection.sendall(head)
    until(lambda: b'code="499"' in here.ask('/metrics').body)
    assert here.service.room.bytes == 0 and capfd.readouterr() == ('', '')


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_mistake_of_the_server_is_printed_and_said_and_it_goes_on(capfd):
    fake = Fake(fails=RuntimeError('broken inside'))
    with serving(lambda *_: [fake], LIMITS) as running:
        found = sentence(running.ask('/predict', png(1)), 500, 'made a mistake')
        assert 'broken' not in found.body['error']
        said = []
        until(lambda: said.append(capfd.readouterr().err) or 'RuntimeError: broken inside' in ''.join(said))
        fake.fails = None
        assert running.ask('/predict', png(1)).status == 200
        fake.alive = False
        sentence(running.ask('/health'), 503, 'does not answer any more')


def test_a_network_without_numbers_is_not_served(model):
    import jax

    from mixjax.errors import UserError
    from mixjax.serve.metrics import Metrics

    variables = jax.tree.map(lambda x: x * np.nan, model.network.variables)
    lost = dataclasses.replace(model, network=model.network._replace(variables=variables))
    with pytest.raises(UserError, match='lost predicts no numbers'):
        Served('lost', lost, None, LIMITS._replace(batch=1), Metrics())


def test_files_of_the_page_are_in_the_package():
    folder = Path(app.__file__).parent
    assert {path.name for path in folder.iterdir() if path.suffix in ('.html', '.css', '.js')} == {
        'page.html', 'page.css', 'page.js',
    }  # fmt: skip
