"""A run gives the same numbers wherever its images are."""

from __future__ import annotations

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import models
from mixjax.data.feed import batches
from mixjax.data.feed.stream import Batches, Stream
from mixjax.data.pixels import decoded_cache, photo
from mixjax.errors import UserError
from mixjax.host.progress import Progress
from mixjax.train import experiment, mesh, placement, program, seed_batch, seeds
from mixjax.train.shared import shared_setup
from tests.support import miniature
from tests.support.common import Tiny, assert_same_run, assert_trees_equal, final_state, lines, no_threads_are_left
from tests.support.toy import settings
from tests.support.variants import VARIANTS


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def opened(built, folder, kind, every=(0,)):
    """The wave of some seeds with a feed of that kind, and their state."""
    with built.config.unlocked():
        built.config.feed = kind
    found = [seeds.open_seed(built, seed, folder) for seed in every]
    return seed_batch.place_seeds(built, found), seed_batch.stack_states(built, [one.state for one in found])


def walk(built, placed, ts, steps, count=1):
    """The state after so many steps."""
    for step in range(0, steps, count):
        ts, _ = built.advance(count)(ts, built.shared.start, placed.frozen, placed.feed.inputs(step, count))
    placed.close()
    return ts


def short(method, **changes):
    return settings(method, **{'steps': 8, 'log_every': 2, 'eval_every': 4, 'checkpoint_every': 4, **changes})


# --- the same numbers -------------------------------------------------------------------------------------------------


# Kinds of feed, and from how many examples of an epoch on its order is made once.
FEEDS = (('resident', 4096), ('resident', 1), ('stream', 4096))
MORE = [pytest.param(name, marks=pytest.mark.slow) for name in ('smile', 'cotrain', 'regsl self-labelling')]


@pytest.mark.parametrize('variant', ['xmixup', *MORE])
def test_resident_and_streamed_runs_end_with_the_same_bits(variant, tmp_path, monkeypatch):
    shards = 4 if variant == 'xmixup' else 1
    built = program.build(settings({'name': variant} | VARIANTS[variant], mix={'groups': 2, 'shards': shards}))
    ended = []
    for kind, long in FEEDS:
        monkeypatch.setattr(placement, 'LONG', long)
        placed, ts = opened(built, tmp_path, kind)
        assert isinstance(placed.feed, Stream) == isinstance(placed.test.batches, Batches) == (kind == 'stream')
        assert ('orders' in placed.inputs) == (long == 1)
        ended.append(walk(built, placed, ts, 20))
    assert_trees_equal(*ended[:2])
    assert_trees_equal(*ended[1:])
    assert no_threads_are_left()


@pytest.mark.slow
def test_several_steps_a_call_and_several_seeds_end_with_the_same_bits(tmp_path, monkeypatch):
    built = program.build(settings('finetune', devices=8, num_seeds=3))
    ended = []
    for kind, long in FEEDS:
        monkeypatch.setattr(placement, 'LONG', long)
        placed, ts = opened(built, tmp_path, kind, (0, 1, 2))
        ended.append(walk(built, placed, ts, 8, count=4))
    assert_trees_equal(*ended[:2])
    assert_trees_equal(*ended[1:])


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_streamed_run_that_is_stopped_goes_on_as_the_resident_one(tmp_path, monkeypatch):
    """With a stage before the run, evaluations, and what the report shows."""
    method = {'name': 'seqtrain', 'share': 0.5}
    experiment.run(short(method, feed='resident'), tmp_path / 'resident')
    real = Stream.inputs

    def stopping(self, step, count):
        if step == 6:
            raise Stopped
        return real(self, step, count)

    with monkeypatch.context() as patched:
        patched.setattr(Stream, 'inputs', stopping)
        with pytest.raises(Stopped):
            experiment.run(short(method, feed='stream'), tmp_path / 'stream')
    assert no_threads_are_left()
    assert (tmp_path / 'stream/first/checkpoints/0/step_4').exists()
    assert lines(tmp_path / 'stream/metrics.jsonl')[-1]['step'] == 6  # after the checkpoint of step 4
    experiment.run(short(method, feed='stream'), tmp_path / 'stream')
    assert no_threads_are_left()
    # Where the images are is no part of the experiment: what is in a folder may be gone on with either way.
    for name in ('resident', 'stream'):
        config = (tmp_path / name / 'config.json').read_text()
        (tmp_path / name / 'config.json').write_text(config.replace(f'"feed": "{name}"', '"feed": "auto"'))
    assert_same_run(tmp_path / 'resident', tmp_path / 'stream', range(1), 8)
    a, b = (np.load(tmp_path / name / 'samples.npz') for name in ('resident', 'stream'))
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name])
    first = [final_state(tmp_path / name / 'first', 0, 4) for name in ('resident', 'stream')]
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], first[1][name])


@pytest.mark.slow
def test_a_run_of_photographs_decodes_each_once(tmp_path, monkeypatch):
    for k in range(24):
        path = tmp_path / f'photos/{"ab"[k % 2]}/{k}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(miniature.picture(k, size=(40, 48)))
    decoded = []
    real = photo.fit
    monkeypatch.setattr(photo, 'fit', lambda image, rule: decoded.append(rule) or real(image, rule))

    def run(name, **changes):
        config = short('finetune', synthetic={'per_class': 0, 'side': 0}, target={'name': 'folder'}, **changes)
        with config.unlocked():
            config.target.dir, config.source.name, config.model.weights = str(tmp_path / 'photos'), '', ''
            config.image.resize, config.image.crop, config.batch_size = 20, 16, 8
            config.cache_dir = str(tmp_path / 'cache')
        decoded.clear()
        said = io.StringIO()
        experiment.run(config, tmp_path / name, progress=Progress(0, stream=said))
        return len(decoded), said.getvalue()

    def kept():
        return {path.name: np.fromfile(path, np.uint32).all() for path in (tmp_path / 'cache/images').glob('*.sums')}

    count, said = run('stream', feed='stream')
    assert 'images: read as they are needed, as config.feed says' in said
    assert count <= 24 and len(kept()) == 2  # every row at most once, where they are needed
    count, said = run('resident', feed='resident')
    assert 'on each device' in said and all(kept().values())
    assert run('again', feed='stream')[0] == 0
    without, _ = run('without', feed='resident', store=False)
    assert without >= 24
    for name in ('stream', 'again', 'without'):
        a, b = (tmp_path / run / 'model.safetensors' for run in ('resident', name))
        assert a.read_bytes() == b.read_bytes()
        assert lines(tmp_path / name / 'metrics.jsonl') == lines(tmp_path / 'resident/metrics.jsonl')


@pytest.mark.parametrize('feed_kind', ['resident', 'stream'])
def test_a_pass_over_the_source_stores_only_what_is_trained_on(feed_kind, tmp_path):
    """Means over all images of the source, of which the method then draws some."""
    for k in range(96):
        for where, classes in (('photos', 'ab'), ('source', 'cdefgh')):
            path = tmp_path / where / classes[k % len(classes)] / f'{k}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(miniature.picture(k + 100 * (where == 'source'), size=(24, 28)))
    method = {'name': 'xmixup', 'per_class': 0}
    config = short(method, synthetic={'per_class': 0, 'side': 0}, target={'name': 'folder'}, feed=feed_kind)
    with config.unlocked():
        config.target.dir, config.source.name = str(tmp_path / 'photos'), 'folder'
        config.source.dir, config.model.weights = str(tmp_path / 'source'), 'random://6'
        config.cache_dir = str(tmp_path / 'cache')
    said = []
    built = program.build(config, shared_setup(config, said.append))
    name = built.sets.source.name

    def kept():
        (path,) = (tmp_path / 'cache/images').glob(f'{name}-*.sums')
        return np.flatnonzero(np.fromfile(path, np.uint32))

    data, _ = seeds.method_data(built, 0)
    data.source.class_means()
    list(data.source.batches(32))
    assert len(kept()) <= 8  # the first ones, which tell the source from others
    assert 'for one pass over them; none is kept' in said[-1]
    placed, ts = opened(built, tmp_path, feed_kind)
    walk(built, placed, ts, 2)
    drawn = np.load(tmp_path / 'prepared-0.npz')['draw/rows']
    assert set(kept()) <= {*range(8), *drawn.tolist()} and len(drawn) < 80
    assert set(drawn) <= set(kept()) or feed_kind == 'stream'
    (line,) = [line for line in said if name in line and 'into' in line or 'kept in' in line and name in line]
    assert line.startswith('decoding' if feed_kind == 'resident' else f'{len(set(drawn) - set(range(8)))} images')


def test_resident_photographs_are_decoded_at_once_and_told(tmp_path):
    said = []
    data = photo_set(tmp_path, said.append)
    images = seeds.all_images(data)
    images.image.ensure()
    assert len(said) == 1 and said[0].startswith('decoding 6 images')


def photo_set(folder, say):
    from mixjax.data.dataset import Dataset

    class Reader:
        rule = photo.Rule(side=8)

        def __call__(self, rows):
            return np.zeros((len(rows), 8, 8, 3), np.uint8)

    return decoded_cache.stored(Dataset('photos', ('a',), np.zeros(6, np.int32), Reader()), 'train', folder, say)


# --- which feed, and what it costs ------------------------------------------------------------------------------------


def test_feed_auto_chooses_by_size_and_logs_it(tmp_path, monkeypatch):
    built = program.build(settings('xmixup', devices=8, mix={'groups': 1, 'shards': 8}))
    one = seeds.open_seed(built, 0, tmp_path)
    assert one.inputs['source']['image'].shape == (8, 23, 16, 16, 1)  # ten pairs of two: lists for every shard
    training, test = (20 + 23) * 256, 20 * 256 // 8

    def chosen(kind, room):
        monkeypatch.setattr(placement, 'image_budget', lambda devices: room)
        with built.config.unlocked():
            built.config.feed = kind
        tests = [seeds.all_images(built.sets.test)]
        with built.config.unlocked():
            built.config.eval_batch_size = 8
        return placement.choose(built, [one.inputs], tests)

    assert chosen('auto', training + test)[:2] == ('resident', 'resident')
    assert chosen('auto', training + test - 1)[:2] == ('resident', 'stream')
    assert chosen('auto', training - 1)[:2] == ('stream', 'stream')
    assert chosen('resident', 0)[:2] == ('resident', 'resident')
    assert chosen('stream', 10**12)[:2] == ('stream', 'stream')
    assert chosen('auto', 20_000).note == 'images: 11 kB on each device (there is room for 20 kB)'
    assert chosen('auto', training).note.startswith('images: 11 kB on each device; the test images, 640 bytes'[:46])
    assert chosen('auto', 5000).note == (
        'images: read as they are needed, 11 kB on each device are too many (there is room for 5 kB)'
    )
    assert chosen('stream', 1).note == 'images: read as they are needed, as config.feed says'


def test_resident_budget_is_a_share_of_device_memory():
    devices = mesh.make(8)
    assert 0 < placement.image_budget(devices) <= placement.free_memory() / 8


def test_each_note_is_logged_once():
    progress = Progress(0, stream=io.StringIO())
    for text in ('one', 'two', 'one'):
        progress.say_once(text)
    assert progress.stream.getvalue() == 'one\ntwo\n'


@pytest.mark.parametrize(
    ('key', 'value', 'said'),
    [
        ('feed', 'disk', 'config.feed must be one of auto, resident, stream'),
        ('mix.shards', 0, 'config.mix.shards must be a whole number of at least 1'),
        ('mix.shards', 3, 'config.mix.shards=3 must divide config.batch_size=16'),
    ],
)
def test_settings_that_are_refused(key, value, said):
    config = settings('finetune')
    with config.unlocked():
        *group, last = key.split('.')
        setattr(config[group[0]] if group else config, last, value)
    with pytest.raises(UserError, match=said):
        config_lib.check(config)


@pytest.mark.parametrize('shards', [0, 8])
@pytest.mark.parametrize('trials', [1, 2])
def test_images_are_put_on_the_devices_in_pieces(trials, shards, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 3, 1), np.uint8)
    asked = []

    def read(rows):
        asked.append(len(rows))
        return pixels[rows]

    devices = mesh.make(8, trials)
    rows = [np.random.default_rng(k).permutation(60)[: 40 + 8 * k] for k in range(trials)]
    rows = [one.reshape(shards, -1) if shards else one for one in rows]
    lazy = [batches.Lazy(read, one) for one in rows]
    spec = mesh.shard_spec(devices, shards)
    whole = placement.read_onto_devices(devices, lazy, spec)
    monkeypatch.setattr(placement, 'PIECE', 4 * 9)
    asked.clear()
    pieces = placement.read_onto_devices(devices, lazy, spec)
    assert max(asked) <= 4
    assert whole.sharding == pieces.sharding and (
        not shards or len({str(s.index) for s in pieces.addressable_shards}) == 8
    )
    np.testing.assert_array_equal(whole, pieces)
    for found, one in zip(np.asarray(pieces), rows, strict=True):
        np.testing.assert_array_equal(found[: len(one)] if not shards else found[:, : one.shape[1]], pixels[one])


@pytest.mark.parametrize(('size', 'same'), [(8, True), (8, False), (6, True)])
def test_test_batches_are_the_same_read_as_needed(size, same):
    built = program.build(settings('finetune', devices=8, num_seeds=3 if not same else 1, eval_batch_size=size))
    parts = [seeds.subset(built.sets.train, np.arange(20)[::step]) for step in ((1,) if same else (1, -1, 1))]
    there = placement.eval_images(built, parts, same=same, resident=True).batches
    later = placement.eval_images(built, parts, same=same, resident=False).batches
    assert len(there) == len(later) == -(-20 // size)
    for a, b in zip(there, later, strict=True):
        assert_trees_equal(a, b)
        assert [x.sharding for x in jax.tree.leaves(a)] == [x.sharding for x in jax.tree.leaves(b)]
        assert a[0].shape == (() if same else (3,)) + (size, 16, 16, 1)
        assert a[0].sharding.is_fully_replicated == (size == 6)
    assert no_threads_are_left()


# --- shards -----------------------------------------------------------------------------------------------------------

KINDS = 'all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast'


def of_images(text):
    """The collectives of a compiled program that move images: bytes, or floats of an image's height and width."""
    found = [line for line in text.splitlines() if re.search(rf'= .*\b({KINDS})(-start)?\(', line)]
    return [line for line in found if re.search(r'u8\[|\[(\d+,)*1[68],1[68],\d+\]', line.split('(')[0] + line)]


def compiled(built, placed, ts):
    return built.advance(1).lower(ts, built.shared.start, placed.frozen, placed.inputs).compile().as_text()


def test_no_image_leaves_its_device_where_the_source_is_dealt_out(tmp_path, monkeypatch):
    built = program.build(
        settings({'name': 'xmixup', 'rounds': 3}, devices=8, mix={'groups': 8, 'shards': 8},
                 synthetic={'per_class': 9, 'side': 16})
    )  # fmt: skip
    placed, ts = opened(built, tmp_path, 'resident')
    image = placed.inputs['source']['image']
    assert image.addressable_shards[0].data.shape[1] * 8 == image.shape[1] == 8
    assert image.shape[2] < 60 and image.sharding.shard_shape(image.shape)[2:] == image.shape[2:]  # of 270
    text = compiled(built, placed, ts)
    assert re.search(r'all-reduce', text) and not of_images(text)

    def naive(table, places, shards):
        at = jnp.arange(len(places)) * shards // len(places) * table.shape[1] + places
        return table.reshape(-1, *table.shape[2:])[at]

    # The test would see it: rows out of one table that lies spread over the devices.
    monkeypatch.setattr(batches, 'gather_shards', naive)
    again = program.build(built.config, built.shared)
    assert of_images(compiled(again, placed, ts))


def test_partners_from_the_whole_batch_are_what_moves_images(tmp_path):
    built = program.build(settings('mixup', devices=8))
    placed, ts = opened(built, tmp_path, 'resident')
    assert of_images(compiled(built, placed, ts))


@pytest.mark.slow
def test_shards_are_the_same_experiment_on_every_layout(tmp_path):
    """One device, four with two shards each, eight with one each, and streamed."""
    ended = []
    for devices, kind in ((1, 'resident'), (4, 'resident'), (8, 'resident'), (8, 'stream')):
        with jax.enable_x64(True):
            config = settings('xmixup', devices=devices, mix={'groups': 8, 'shards': 8})
            config.model.dtype = 'float64'
            built = program.build(config)
            placed, ts = opened(built, tmp_path, kind)
            ended.append(walk(built, placed, ts, 6))
    for other in ended[1:]:
        for a, b in zip(jax.tree.leaves(ended[0].params), jax.tree.leaves(other.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert_trees_equal(ended[2], ended[3])


@pytest.mark.parametrize('shards', [1, 4])
@pytest.mark.parametrize('variant', ['xmixup', 'xmixup two rounds', 'xmixup union'])
def test_every_row_that_can_be_drawn_is_of_a_paired_class(variant, shards, tmp_path):
    built = program.build(settings({'name': variant} | VARIANTS[variant], mix={'groups': 1, 'shards': shards}))
    one = seeds.open_seed(built, 0, tmp_path)
    made, labels = one.prepared.draw, built.sets.source.labels
    start, count = (np.reshape(x, (shards, *made.start.shape)) for x in one.inputs['draw'][:2])
    rows = one.inputs['source']['image'].rows.reshape(shards, -1)
    np.testing.assert_array_equal(one.inputs['source']['label'].reshape(shards, -1), labels[rows])
    for t in range(len(made.start)):
        for k in range(made.rounds[t]):
            segment = made.rows[made.start[t, k] : made.start[t, k] + made.count[t, k]]
            paired = labels[segment[0]]
            reached = set()
            for shard in range(shards):
                mine = rows[shard, start[shard, t, k] : start[shard, t, k] + count[shard, t, k]]
                assert len(mine) and (labels[mine] == paired).all()
                reached |= set(mine)
            assert reached == set(segment)
