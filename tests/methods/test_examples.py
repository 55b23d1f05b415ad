"""The methods that docs/contract.md writes as examples train, and are as short as they look."""

import re
from pathlib import Path

import numpy as np
import pytest

from mixjax import models
from mixjax.models import weights
from tests.support.common import Tiny, final_state, lines
from tests.support.toy import given, settings, train

PAGE = Path(__file__).parents[2] / 'docs' / 'contract.md'
SHORT = {'lpft': 'Phase(probe', 'wiseft': 'share: float = 0.5', 'ema': 'decay * a', 'fixmatch': 'threshold'}
MARKS = {**SHORT, 'scale': "params['scale']"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def example(name):
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    found = [code for code in blocks if MARKS[name] in code and ('evaluated' in code or name in ('lpft', 'fixmatch'))]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize('name', SHORT)
def test_they_take_at_most_twenty_lines(name):
    assert len([line for line in example(name).splitlines() if line]) <= 20


@pytest.mark.parametrize('name', MARKS)
def test_they_train_and_export(name, tmp_path):
    scope: dict = {}
    exec(example(name), scope)
    make = scope['make']
    make.__name__ = name
    with given(make) as method:
        config = settings(method, steps=6, log_every=1, eval_every=3, checkpoint_every=3, num_seeds=1)
        with config.unlocked():
            config.synthetic.per_class = 6
            config.target.per_class = 4
        results = train(config, tmp_path / 'run')
        exported = weights.load(str(tmp_path / 'run')).variables
    found = [line for line in lines(tmp_path / 'run' / 'metrics.jsonl') if line['kind'] == 'train']
    assert len(found) == 6 and np.isfinite([line['loss'] for line in found]).all()
    assert 0 <= results['accuracy']['mean'] <= 1 and set(exported['params']) == {'backbone', 'heads'}
    trained = final_state(tmp_path / 'run', 0, 6)
    kernel = "['params']['backbone']['stem']['conv']['kernel']"
    same = (exported['params']['backbone']['stem']['conv']['kernel'] == trained[kernel]).all()
    assert same == (name not in ('ema', 'wiseft'))  # they evaluate other weights than they train
