"""Many clients at once against a real process: none is lost, none is answered wrongly, and memory does not grow."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest

import mixjax
from benchmarks import serve as load_lib
from tests.support.http_server import started
from tests.support.photos import png

CLIENTS = 64


@pytest.fixture(scope='module')
def wanted():
    """Some images, and what the network says of them."""
    model = mixjax.load('embedded://glyphnet', batch=8)
    bodies = [png(seed) for seed in range(32)]
    return model, bodies, model.probabilities(bodies)


def checker(wanted):
    """A check that an answer is that of the network itself."""
    model, _, probabilities = wanted
    order = np.argsort(-probabilities, axis=1, kind='stable')[:, :5]

    def check(place, body):
        ((found,),) = [one['models'] for one in json.loads(body)['images']]
        assert [one['class'] for one in found['top']] == [model.classes[k] for k in order[place]]
        given = [one['probability'] for one in found['top']]
        np.testing.assert_allclose(given, probabilities[place][order[place]], atol=1e-5)

    return check


def memory(process):
    """Bytes that a process has in memory."""
    return int(re.search(r'VmRSS:\s*(\d+) kB', Path(f'/proc/{process.pid}/status').read_text())[1]) * 1024


def answered(port, wanted, seconds, clients=CLIENTS):
    return asyncio.run(load_lib.send(load_lib.Load('127.0.0.1', port, wanted[1], clients, seconds), checker(wanted)))


def test_a_full_queue_loses_nobody(wanted, tmp_path):
    """A queue of two images and sixteen clients: most are refused, wait, and are answered in the end."""
    with started(tmp_path, 'embedded://glyphnet', '--queue=2') as (_, port, _):
        found = answered(port, wanted, 3, clients=16)
    assert found.lost == 0 and set(found.codes) == {200, 503} and found.codes[503] > 10
    assert len(found.latency) == found.codes[200] > 10


@pytest.mark.timed
def test_a_minute_of_many_clients(wanted, tmp_path):
    with started(tmp_path, 'embedded://glyphnet', '--batch=16') as (process, port, _):
        answered(port, wanted, 10)  # allocators have what they need then
        before = memory(process)
        found = answered(port, wanted, 60)
        after = memory(process)
    print(f'\n{found.text()}; {after / 1e6:.0f} MB, {(after - before) / 1e6:+.1f} MB of it in this time')
    assert found.lost == 0 and set(found.codes) == {200}  # the queue has room for all of them
    assert found.codes[200] > 60 * 20
    assert after - before < 16e6
