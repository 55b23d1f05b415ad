"""Runs of two steps on a data set of a few images, with its images on the devices and read as they are needed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import models
from mixjax.data.datasets import catalog
from mixjax.data.labelled import run_data
from mixjax.host.progress import Progress
from mixjax.train import experiment, program
from mixjax.train.shared import Shared
from tests.support.common import Tiny, lines

FEEDS = ('stream', 'resident')
WHERE = ('feed', 'store', 'data_dir', 'cache_dir', 'target', 'source')  # what the programs do not depend on
SIDE, CROP, BATCH = 16, 12, 4


@pytest.fixture(scope='module', autouse=True)
def small():
    """A tiny network, and its programs shared by the tests of a file; in a file that imports this."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(2))
        share_programs(patched)
        yield


def share_programs(monkeypatch) -> None:
    """Compile once for all data sets of as many classes, examples and colours.

    Nothing else of a data set is in a program: its images and labels are given to it. To compile takes all the time
    of these runs.
    """
    around, kept = program.build_program, {}

    def shared(on: Shared, config: Any, method: Any) -> program.Program:
        same = {name: value for name, value in config.to_dict().items() if name not in WHERE}
        examples = run_data.draw_seed(config, on.sets, config.seed).epoch_length
        own = on.sets.test is not None
        key = json.dumps([same, len(on.sets.train.classes), examples, on.image.shape, own], sort_keys=True)
        if key not in kept:
            kept[key] = around(on, config, method)
        return kept[key]._replace(shared=on, config=config, draws={}, prepared={})

    monkeypatch.setattr(program, 'build_program', shared)


def draw_of(name: str, data_dir: Path, most: int = 7) -> str:
    """A `splits.json`: three of the classes that have images, those of the test part first, and `most` of their
    training images."""
    data = catalog.load(name, 'train', data_dir=str(data_dir))
    tested = catalog.load(name, 'test', data_dir=str(data_dir)).labels if catalog.entry(name).test else ()
    there = sorted(set(data.labels.tolist()), key=lambda label: (label not in tested, label))[:3]
    rows = np.concatenate([np.flatnonzero(data.labels == label)[: -(-most // 3)] for label in there])
    about = {
        'target': name,
        'classes': [data.classes[label] for label in there],
        'left out classes': [kind for label, kind in enumerate(data.classes) if label not in there],
        'labelled rows': {'0': [int(row) for row in rows[:most]]},
    }
    path = data_dir / f'splits-{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about))
    return str(path)


def settings(**changes: Any) -> Any:
    """Plain training for two steps; `changes` by dotted names with `__` for the dot."""
    config = config_lib.base()
    config.method = {'name': 'finetune'}
    config.model.name = 'tiny'
    config.image.resize, config.image.crop, config.image.interpolation = SIDE, CROP, 'bilinear'
    config.image.mean = config.image.std = (0.5, 0.5, 0.5)
    config.batch_size, config.eval_batch_size, config.steps, config.log_every, config.devices = BATCH, 32, 2, 1, 1
    for name, value in changes.items():
        *groups, last = name.split('__')
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return config_lib.settle(config_lib.complete(config))


def run_with(feed: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Its results. What a streamed run decodes is kept; a resident run decodes again, so both have decoded."""
    said = io.StringIO()
    config = settings(feed=feed, store=feed == 'stream', cache_dir=str(folder / 'cache'), **changes)
    results = experiment.run(config, folder / feed, progress=Progress(0, stream=said))
    assert ('images: read as they are needed' if feed == 'stream' else ' on each device') in said.getvalue()
    return results


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    """The results of a run, which are the same with both feeds, bit for bit."""
    results = [run_with(feed, folder, **changes) for feed in FEEDS]
    assert results[0] == results[1]
    for name in ('metrics.jsonl', 'results.json', 'splits.json', 'model.safetensors'):
        assert len({(folder / feed / name).read_bytes() for feed in FEEDS}) == 1, name
    logged = lines(folder / 'stream' / 'metrics.jsonl')
    assert [line['step'] for line in logged if line['kind'] == 'train'] == [1, 2]
    assert [line['step'] for line in logged if line['kind'] == 'eval'] == [2]
    return results[0]
