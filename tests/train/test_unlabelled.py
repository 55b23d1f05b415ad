"""Unlabelled images and further views of an image: their rows, their pixels, and where they come from."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mixjax import config as config_lib
from mixjax import losses, models
from mixjax.data.feed import augment
from mixjax.data.labelled import run_data, splits
from mixjax.errors import UserError
from mixjax.method import Aux, Method, Prepared, View
from mixjax.train import program, seeds, step
from tests.support.common import Tiny, lines
from tests.support.toy import given, opened, settings, train


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def consistent(classes_t):
    """A loss that sees two views of two unlabelled images for each labelled one, and one more of that."""

    def loss(net, params, ctx):
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        seen = {name: ctx.batch[name].sum() for name in ('weak', 'strong', 'second')}
        more, _ = net.apply(ctx.variables(params), ctx.batch['weak'], train=False)
        pull = jnp.square(jax.nn.softmax(more.logits['target'])).mean()
        metrics = {**seen, 'row': ctx.batch['unlabelled_index'].sum() * 1.0, 'pull': pull}
        return losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean() - pull, Aux(model_state, metrics)

    views = {'weak': View('unlabelled'), 'strong': View('unlabelled'), 'second': View()}
    return Method(loss, views=views, unlabelled=2)


def digits(name, **changes):
    config = settings(name, steps=6, log_every=1, eval_every=3, checkpoint_every=2, **changes)
    with config.unlocked():
        config.synthetic.per_class, config.synthetic.side, config.source.name = 0, 0, ''
        config.target.name, config.target.per_class = 'digits', 2
        config.model.weights = 'random://5'
        config.unlabelled.name = ''  # what a method needs is found again
    return config_lib.settle(config)


def batch_of(built, data, ts, at):
    inputs = jax.tree.map(lambda x: x[0], data.feed.inputs(at, 1))
    return built.feed(inputs, step.keys(jax.tree.map(lambda x: x[0], ts.key)).data, jnp.asarray(at))


def test_the_rest_is_shared_with_the_test_set_only_where_there_is_no_other(tmp_path):
    with given(consistent) as name:
        built = program.build(digits(name))
    assert built.config.unlabelled.name == 'rest'  # because the method needs unlabelled images
    rows = built.draw(0).rows
    assert len(rows.labelled) == 20 and len(rows.unlabelled) == (1797 - 20) // 2
    assert not set(rows.labelled) & set(rows.unlabelled)
    tested = seeds.test_images(built, 0)
    assert len(tested.label) == 1797 - 20 - len(rows.unlabelled)
    assert (built.draw(1).rows.unlabelled[:50] != rows.unlabelled[:50]).any()
    # Of a data set with a test part, all of the rest is unlabelled.
    with given(consistent) as name:
        config = settings(name)
        with config.unlocked():
            config.synthetic.per_class, config.target.per_class, config.unlabelled.name = 5, 2, ''
        other = program.build(config_lib.settle(config))
    found = other.draw(0).rows
    assert sorted([*found.labelled, *found.unlabelled]) == list(range(len(other.sets.train.labels)))


def test_other_methods_are_tested_on_the_same_images_if_they_are_told_so():
    config = digits('finetune')
    assert config.unlabelled.name == '' and len(program.build(config).draw(0).rows.unlabelled) == 0
    with config.unlocked():
        config.unlabelled.name = 'rest'
    with given(consistent) as name:
        needs = program.build(digits(name))
    np.testing.assert_array_equal(seeds.test_images(program.build(config), 0).label, seeds.test_images(needs, 0).label)


def test_validation_examples_are_not_learned_from():
    drawn = splits.Drawn(np.array([1, 2]), np.array([5]), np.array([7]))
    found = splits.unlabelled(10, drawn, 1.0, 0)
    assert found.tolist() == [0, 3, 4, 6, 8, 9]
    half = splits.unlabelled(10, drawn, 0.5, 0)
    assert len(half) == 3 and set(half) < set(found) and half.tolist() == sorted(half)
    assert splits.unlabelled(10, drawn, 0.5, 0).tolist() == half.tolist()


@pytest.mark.parametrize('feed', ['resident', 'stream'])
def test_a_batch_has_the_pixels_of_its_rows(feed, tmp_path):
    with given(consistent) as name:
        built, data, ts = opened(digits(name, feed=feed), tmp_path)
        one = seeds.unlabelled_images(built, 0)
        rows, epochs = [], 2 * len(one.labels) // 32 + 1
        for at in (0, 1, epochs):
            batch = batch_of(built, data, ts, at)
            rows.append(np.array(batch['unlabelled_index']))
            assert batch['weak'].shape == batch['strong'].shape == (32, 16, 16, 1)
            assert batch['second'].shape == batch['image'].shape == (16, 16, 16, 1)
            assert 'unlabelled_image' not in batch
            # Each crop of pad 1 has the inner pixels of the stored image somewhere: compare with all nine shifts.
            stored = np.pad(one.read(rows[-1]), ((0, 0), (1, 1), (1, 1), (0, 0)))
            crops = np.stack([stored[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)])
            crops = np.asarray(augment.normalise(jnp.asarray(crops), built.shared.geometry))
            for view in ('weak', 'strong'):
                assert (np.abs(crops - np.asarray(batch[view])).max((2, 3, 4)) < 1e-6).any(0).all()
        data.close()
    assert len(set(rows[0]) | set(rows[1])) == 64  # no image twice in an epoch
    # The views of one image are cropped apart.
    assert (np.abs(np.asarray(batch['weak'] - batch['strong'])).max((1, 2, 3)) > 0).any()


def test_resident_and_streamed_runs_are_equal_bit_for_bit(tmp_path):
    found = {}
    for feed, devices in (('resident', 1), ('stream', 1), ('stream', 4)):
        with given(consistent) as name:
            train(digits(name, feed=feed, devices=devices), tmp_path / f'{feed}{devices}')
        found[feed, devices] = lines(tmp_path / f'{feed}{devices}' / 'metrics.jsonl')
    assert found['resident', 1] == found['stream', 1]
    assert [line.get('row') for line in found['stream', 4]] == [line.get('row') for line in found['stream', 1]]
    for a, b in zip(found['stream', 4], found['stream', 1], strict=True):
        np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-4)


def test_long_epochs_have_the_order_of_short_ones(tmp_path, monkeypatch):
    from mixjax.train import placement

    with given(consistent) as name:
        built, data, ts = opened(digits(name), tmp_path)
        short = [batch_of(built, data, ts, at) for at in (0, 40, 60)]
        monkeypatch.setattr(placement, 'LONG', 100)
        (tmp_path / 'long').mkdir()
        built, data, ts = opened(digits(name), tmp_path / 'long')
        long = [batch_of(built, data, ts, at) for at in (0, 40, 60)]
        assert 'unlabelled_orders' in data.feed.inputs(0, 1) and 'orders' not in data.feed.inputs(0, 1)
    for a, b in zip(short, long, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_views_do_not_change_the_images_of_other_methods(tmp_path):
    found = []
    for method in (None, consistent):
        folder = tmp_path / str(method is None)
        folder.mkdir()
        if method is None:
            built, data, ts = opened(digits('finetune'), folder)
            found.append(batch_of(built, data, ts, 3))
        else:
            with given(method) as name:
                built, data, ts = opened(digits(name), folder)
                found.append(batch_of(built, data, ts, 3))
    for name in ('image', 'label', 'index', 'partner'):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_parts_of_a_batch_have_their_share_of_the_unlabelled_images(tmp_path):
    with given(consistent) as name:
        config = digits(name, accumulate=2, batch_size=16)
        with config.unlocked():
            config.mix.groups = 2
        train(config, tmp_path / 'run')
    assert np.isfinite([line['loss'] for line in lines(tmp_path / 'run' / 'metrics.jsonl')]).all()


def pictures(folder, names, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24), np.uint8)).save(path)


def test_a_folder_of_images_needs_no_classes(tmp_path):
    pictures(tmp_path / 'more', ['a.png', 'deep/er/b.png', 'deep/c.png', *(f'{k}.png' for k in range(30))])
    (tmp_path / 'more' / 'notes.txt').write_text('no image')
    (tmp_path / 'more' / 'broken.png').write_bytes(b'nothing')
    seen = []

    def looks(classes_t):
        def prepare(net, data, rng):
            seen.append(data.unlabelled)
            return Prepared()

        return consistent(classes_t)._replace(prepare=prepare)

    with given(looks) as name:
        config = digits(name)
        with config.unlocked():
            config.unlabelled.name, config.unlabelled.dir = 'folder', str(tmp_path / 'more')
        built, data, ts = opened(config, tmp_path)
    (part,) = seen
    assert len(part.labels) == 33 and set(part.labels.tolist()) == {-1} and part.classes == ()
    assert list(part.names) == sorted(['a.png', 'deep/er/b.png', 'deep/c.png', *(f'{k}.png' for k in range(30))])
    (first,) = [batch['image'] for batch in part.batches(64)]
    assert first.shape == (33, 16, 16, 1)
    assert len(seeds.test_images(built, 0).label) == 1797 - 20  # the rest of the digits is not used
    assert int(batch_of(built, data, ts, 0)['unlabelled_index'].max()) < 33


def test_other_unlabelled_images_are_noticed(tmp_path):
    pictures(tmp_path / 'more', [f'{k}.png' for k in range(20)])
    with given(consistent) as name:
        config = digits(name)
        with config.unlocked():
            config.unlabelled.name, config.unlabelled.dir = 'folder', str(tmp_path / 'more')
        train(config, tmp_path / 'run')
        pictures(tmp_path / 'more', ['5.png'], seed=1)
        with config.unlocked():
            config.steps = 8
        with pytest.raises(UserError, match='the unlabelled images have changed'):
            train(config, tmp_path / 'run')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'unlabelled.name': 'resst'}, 'unknown data set'),
        ({'unlabelled.dir': '/tmp'}, 'set that too'),
        ({'unlabelled.share': 1.0}, 'config.unlabelled.share must be above 0 and below 1'),
        ({'unlabelled.name': 'folder', 'unlabelled.dir': '/no/such'}, 'there is no folder'),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(changes, sentence, tmp_path):
    with given(consistent) as name:
        config = digits(name)
        with config.unlocked():
            if 'unlabelled.dir' in changes and 'unlabelled.name' not in changes:
                config.unlabelled.name = ''
            for key, value in changes.items():
                config.unlabelled[key.partition('.')[2]] = value
        with pytest.raises(UserError, match=sentence):
            train(config, tmp_path / 'run')


def test_without_an_unlabelled_image_there_is_a_way_out():
    """Where there is a test part, and all of the train part is labelled."""
    config = SimpleNamespace(
        unlabelled=SimpleNamespace(name='rest', share=0.5), synthetic=SimpleNamespace(per_class=0)
    )  # fmt: skip
    sets = SimpleNamespace(test=(), train=SimpleNamespace(labels=np.arange(3)))
    nothing = np.zeros(0, np.int64)
    drawn = splits.Drawn(np.arange(3), nothing, nothing)
    with pytest.raises(UserError, match='label fewer'):
        run_data.with_unlabelled(config, sets, drawn, 0)
    # Made-up images of a trial run stand for each other.
    config.synthetic.per_class = 3
    assert run_data.with_unlabelled(config, sets, drawn, 0).unlabelled.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'views': {'image': View()}}, 'must be a word other than'),
        ({'views': {'more': View('unlabeled')}}, "of 'image' or"),
        ({'views': {'more': View('unlabelled')}, 'unlabelled': 0}, r'Method\(unlabelled=1\)'),
        ({'unlabelled': 1.5}, 'must be the number of unlabelled images'),
        ({'views': ['weak']}, 'must be a dict'),
    ],
)
def test_wrong_views_are_refused_in_a_sentence(fields, sentence, tmp_path):
    def wrong(classes_t):
        return consistent(classes_t)._replace(**{'views': {}, **fields})

    with given(wrong) as name, pytest.raises(UserError, match=sentence):
        train(digits(name), tmp_path / 'run')


