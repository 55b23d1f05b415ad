"""Every data set from its original files to a trained network: prepared, through both feeds, two steps, a test.

Our own builders read archives in their original layout here, and so does a folder. The sets that TensorFlow Datasets
prepares begin here with a prepared copy: records in its format, made by the test, which `mixjax prepare` then
indexes and checks. Their way from the original files to records needs TensorFlow: where it is installed,
`test_originals.py` goes all of it, through the same two runs.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from mixjax.commands.prepare import prepare
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import catalog, resolve, tfds_copy
from mixjax.data.labelled import run_data
from mixjax.errors import UserError
from tests.support import miniature
from tests.support.common import no_threads_are_left
from tests.support.prepared import FEATURES
from tests.support.trained import draw_of, run_with, settings, small, trained  # noqa: F401

OURS = [name for name in catalog.names() if catalog.entry(name).ours]
FOREIGN = [name for name in catalog.names() if catalog.entry(name).tfds and name not in OURS]
READY = [name for name in catalog.names() if not catalog.entry(name).tfds]


def image(name: str, k: int) -> bytes:
    """The k-th of a set: of photographs odd ones of many sizes, of small images a PNG of their size."""
    height, width, channels = catalog.entry(name).image
    if height == 256:
        return miniature.odd(k) if k % 2 else miniature.picture(k, size=(30 + k, 50 - k))
    return miniature.picture(k, 'PNG', 'L' if channels == 1 else 'RGB', size=(height, width))


def copy(name: str, root, counts=(7, 3), images=image) -> None:
    """A prepared copy as TensorFlow Datasets would leave it: three classes, the first and the last among them."""
    facts, parts = catalog.entry(name), {}
    for p, (part, count) in enumerate(zip(facts.splits, counts, strict=True)):
        records = []
        for k in range(count):
            label = (0, facts.classes // 2, facts.classes - 1)[k % 3]
            about = FEATURES[name](k, f'{part}/{k}.jpg'.encode())
            records.append(miniature.record({**about, 'image': images(name, 10 * p + k), 'label': label}))
        parts[part] = [records[::2], records[1::2]]
    miniature.copy(name, root, parts)


def test_every_data_set_is_tested_end_to_end():
    assert sorted([*OURS, *FOREIGN, *READY, 'folder']) == resolve.names()


@pytest.mark.parametrize('name', OURS)
def test_from_published_archives(name, tmp_path):
    examples = miniature.publish(name, tmp_path / 'downloads' / 'manual')
    assert '7 training and 3 test images' in prepare(name, data_dir=str(tmp_path), allow_counts=True)
    results = trained(tmp_path, target__name=name, target__splits=draw_of(name, tmp_path), data_dir=str(tmp_path))
    assert (results['train_examples'], results['test_examples']) == (7, 3)
    # Names as published, slashes and all.
    assert set(results['classes']) == {kind for kind, _ in examples.values()}


@pytest.mark.parametrize('name', FOREIGN)
def test_from_a_copy_of_tensorflow_datasets(name, tmp_path):
    copy(name, tmp_path)
    assert '7 training and 3 test images' in prepare(name, data_dir=str(tmp_path), allow_counts=True)
    results = trained(tmp_path, target__name=name, target__splits=draw_of(name, tmp_path), data_dir=str(tmp_path))
    assert (results['train_examples'], results['test_examples']) == (7, 3)


@pytest.mark.parametrize('name', READY)
def test_sets_that_need_no_files(name, tmp_path):
    with pytest.raises(UserError, match='there is nothing to prepare'):
        prepare(name, data_dir=str(tmp_path))
    results = trained(tmp_path, target__name=name, target__splits=draw_of(name, tmp_path))
    assert results['train_examples'] == 7 and results['test_examples'] > 7


def test_a_folder(tmp_path):
    """Names with blanks, images that are not what their names say, one that is none, several sizes."""
    kinds = ('a b', 'F_A-18', 'zwölf')
    for k in range(10):
        path = tmp_path / 'photos' / ('train' if k < 7 else 'test') / kinds[k % 3] / f'{k}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(miniature.odd(k) if k % 2 else miniature.picture(k, size=(30 + k, 50 - k)))
    (tmp_path / 'photos' / 'train' / 'a b' / 'broken.jpg').write_bytes(miniature.picture(0)[:300])
    results = trained(tmp_path, target__name='folder', target__dir=str(tmp_path / 'photos'))
    assert (results['train_examples'], results['test_examples']) == (7, 3)
    told = json.loads((tmp_path / 'stream' / 'data.json').read_text())
    assert list(told['unreadable']) == ['train/a b/broken.jpg']


# --- source images ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('source', ['places365', 'imagenet2012'])
def test_photographs_mixed_with_those_of_a_source_set(source, tmp_path):
    """Two of each source class, dealt out to two devices, each with half of the batch."""
    facts = catalog.entry(source)
    few = [miniature.picture(k, size=(30 + k, 50 - k)) for k in range(7)]
    records = [
        miniature.record({**FEATURES[source](k, b'%d.jpg' % k), 'image': few[k % 7], 'label': k % facts.classes})
        for k in range(2 * facts.classes)
    ]
    miniature.copy(source, tmp_path, {facts.splits[0]: [records], facts.splits[1]: [records[:3]]})
    miniature.publish('fgvc_aircraft', tmp_path / 'downloads' / 'manual')
    for name in (source, 'fgvc_aircraft'):
        prepare(name, data_dir=str(tmp_path), allow_counts=True)
    results = trained(
        tmp_path, method={'name': 'xmixup'}, target__name='fgvc_aircraft', source__name=source, devices=2,
        mix__shards=2, mix__groups=2, model__weights=f'random://{facts.classes}', data_dir=str(tmp_path),
        target__splits=draw_of('fgvc_aircraft', tmp_path),
    )  # fmt: skip
    assert results['test_examples'] == 3


# --- an image that cannot be read -------------------------------------------------------------------------------------


def test_an_unreadable_image_stops_a_run_with_its_name_or_is_left_out_and_listed(tmp_path):
    """Of a copy that others have prepared, whose images nobody has looked at: until `mixjax prepare` does."""

    def images(name: str, k: int) -> bytes:
        return image(name, k)[:200] if k == 2 else image(name, k)

    copy('cub200', tmp_path, (8, 3), images)
    counts = dict.fromkeys(catalog.entry('cub200').splits, 0)
    tfds_copy.index(catalog.folder('cub200', str(tmp_path)), counts, 200)  # as a run makes it
    given = {'target__name': 'cub200', 'data_dir': str(tmp_path)}
    draw = draw_of('cub200', tmp_path, most=8)
    for feed in ('stream', 'resident'):
        with pytest.raises(UserError, match=r'train/2.jpg .*record 1.*cut short or damaged.*--skip-corrupt'):
            run_with(feed, tmp_path / 'stopped', target__splits=draw, **given)
        assert not (tmp_path / 'stopped' / feed / 'results.json').exists() and no_threads_are_left()
    with pytest.raises(UserError, match=r'1 of the 11 images in .*\n  train/2.jpg: '):
        prepare('cub200', data_dir=str(tmp_path), allow_counts=True)
    told = prepare('cub200', data_dir=str(tmp_path), allow_counts=True, skip_corrupt=True)
    listed = json.loads((catalog.folder('cub200', str(tmp_path)) / tfds_copy.SKIPPED).read_text())
    assert [one['name'] for one in listed['train']] == ['train/2.jpg'] and '1 that cannot be read' in told
    results = trained(tmp_path, target__splits=draw_of('cub200', tmp_path), **given)
    assert (results['train_examples'], results['test_examples']) == (7, 3)


def test_chosen_classes_that_have_no_test_image_are_refused():
    config = settings(target__name='cub200', target__classes=2)
    whole = Dataset('birds', ('a', 'b', 'c'), np.arange(3, dtype=np.int32), lambda rows: rows)
    chosen = set(run_data.choose_classes(config, whole.classes).tolist())
    assert len(chosen) == 2
    for label in range(3):
        parts = resolve.Parts(whole, None, whole._replace(labels=np.array([label], np.int32)))
        if label in chosen:
            assert len(run_data.chosen_sets(config, parts, None).train.classes) == 2
        else:
            with pytest.raises(UserError, match='no example of the test part of birds is of a chosen class'):
                run_data.chosen_sets(config, parts, None)
