"""Hostile uploads: each is refused by one sentence or read as the decoder reads it, and good ones are answered."""

from __future__ import annotations

import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import mixjax
from mixjax.data.pixels import photo
from mixjax.serve.room import Limits
from mixjax.serve.served import Served
from tests.hostile.mutate import flawed_json
from tests.hostile.readers import flawed_image, images
from tests.support.http_server import serving
from tests.support.photos import png

CLIENTS = 6
LIMITS = Limits(batch=8, pixels=4_000_000, body=4 << 20, workers=2)


@pytest.fixture(scope='module')
def letters():
    return mixjax.load('embedded://glyphnet', batch=8)


def expected(data: bytes) -> str | None:
    """Return why the decoder cannot read a file; None if it can."""
    try:
        photo.decode(data, upright=True)
    except photo.Unreadable as error:
        return str(error)
    return None


def check(running, kind: str, data: bytes) -> bool:
    """Send one upload, and look at its answer; returns whether it was refused."""
    answer = running.ask('/predict', data, Content_Type=kind)
    assert answer.status in (200, 400, 404, 413, 422), (answer, data[:200])
    if answer.status == 200:
        assert kind == 'application/json' or expected(data) is None
        return False
    ((key, sentence),) = answer.body.items()
    assert key == 'error' and sentence and '\n' not in sentence and '\x1b' not in sentence
    assert 'Traceback' not in sentence and str(Path.cwd()) not in sentence
    if answer.status == 422 and kind != 'application/json':
        assert sentence == expected(data)
    return True


def campaign(letters, refusals: int) -> None:
    """Send hostile uploads by several clients until so many are refused, a good one after every fourth."""
    good, text = images(Path()), json.dumps({'images': [base64.b64encode(png(0)).decode()] * 2, 'top': 3, 'why': False})
    wanted = letters.probabilities([png(seed) for seed in range(8)])

    def client(number: int) -> int:
        random_, refused = random.Random(number), 0
        for count in range(10**6):
            if refused >= -(-refusals // CLIENTS):
                break
            if random_.random() < 0.3:
                refused += check(running, 'application/json', flawed_json(text.encode(), random_, [text.encode()]))
            else:
                refused += check(running, 'image/png', flawed_image(random_.choice(good), random_, good))
            if count % 4 == 0:
                seed = random_.randrange(8)
                answer = running.ask('/predict?top=3', png(seed))
                (found,) = answer.body['images'][0]['models']
                order = np.argsort(-wanted[seed])[:3]
                assert [one['class'] for one in found['top']] == [letters.classes[k] for k in order]
                found_p = [one['probability'] for one in found['top']]
                np.testing.assert_allclose(found_p, wanted[seed][order], atol=1e-5)
        return refused

    with serving(lambda *given: [Served('letters', letters, None, *given)], LIMITS) as running:
        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(client, range(CLIENTS)))
        assert sum(found) >= refusals
        assert running.ask('/health').status == 200
        assert running.service.room.images == running.service.room.bytes == 0
        codes = running.ask('/metrics').body.decode()
        assert 'code="500"' not in codes and 'code="504"' not in codes


def test_hostile_uploads(letters, capfd):
    campaign(letters, 60)
    assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.slow
def test_two_thousand_hostile_uploads(letters, capfd):
    campaign(letters, 2000)
    assert 'Traceback' not in capfd.readouterr().err
