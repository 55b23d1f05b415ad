"""Distillation: its loss by hand, its teachers, and a student that outlives its teacher's folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax import losses, models
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.method import Data, Part
from mixjax.models import net as net_lib
from mixjax.train import experiment
from tests.support.common import Tiny, assert_trees_equal, tiny_net
from tests.support.method_setting import CLASSES, B, of, setting


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(4))


@pytest.mark.parametrize(('knob', 'value'), [('temperature', 0.0), ('hard_weight', -1.0)])
def test_impossible_values(knob, value):
    with pytest.raises(UserError, match=f'{knob} must be'):
        method_registry.load('distill')(10, **{knob: value})


def test_divergence_by_hand():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.25, 0.5]])
    found = losses.divergence(jnp.log(p) + 3, jnp.log(q) - 1)  # logits are known up to a constant
    np.testing.assert_allclose(found, [0.25 * np.log(2)], rtol=1e-5)  # (1/2 - 1/4) log 2
    with pytest.raises(AssertionError, match='both predictions'):
        losses.divergence(jnp.zeros((2, 3)), jnp.zeros((2, 4)))


def expected(one, z_teacher, temperature, hard_weight):
    """The loss of the module's formula in float64."""
    out, _ = one.net.apply(one.ctx.variables(one.params), one.ctx.batch['image'], train=True)
    z = np.asarray(out.logits['target'], np.float64)
    log_p, log_q = (np.asarray(x, np.float64) - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in
                    (np.asarray(z_teacher, np.float64) / temperature, z / temperature))  # fmt: skip
    gap = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    log_z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    ce = -log_z[np.arange(B), np.asarray(one.ctx.batch['label'])].mean()
    return temperature**2 * gap + hard_weight * ce, gap, ce


def test_distillation_from_a_probe_by_hand():
    one = setting('distill', temperature=3.0, hard_weight=0.2)
    head = {'kernel': jnp.arange(20.0).reshape(4, 5) / 3, 'bias': jnp.arange(5.0)}
    one.ctx = one.ctx._replace(frozen={'teacher': head})
    value, aux, grads = of(one)
    out, _ = tiny_net().apply(one.start, one.ctx.batch['image'], train=False)
    total, gap, ce = expected(one, out.features @ head['kernel'] + head['bias'], 3.0, 0.2)
    assert gap > 1e-3
    np.testing.assert_allclose(value, total, rtol=1e-5)
    np.testing.assert_allclose([aux.metrics['divergence'], aux.metrics['ce']], [gap, ce], rtol=1e-4)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_distillation_from_a_network_by_hand():
    one = setting('distill', teacher='random://5', network='tiny', temperature=2.0, hard_weight=0.0)
    one.ctx = one.ctx._replace(batch=one.ctx.batch | {'image': one.ctx.batch['image'][..., :1]})
    teacher = models.read('random://5', 'tiny')
    start = one.net.init(jax.random.key(0), one.ctx.batch['image'], {'source': 7})
    one.net = net_lib.bind(tiny_net(), start)
    one.params = one.net.init(jax.random.key(1), one.ctx.batch['image'], {'target': CLASSES})['params']
    made = one.method.prepare(one.net, Data(Part(tuple('abcde'), None, None, None, None)), jax.random.key(0))
    assert_trees_equal(made.frozen['teacher'], jax.tree.map(np.asarray, teacher.variables))
    one.ctx = one.ctx._replace(frozen=jax.tree.map(jnp.asarray, made.frozen))
    value, aux, _ = of(one)
    image = teacher.prepared(one.ctx.batch['image'], one.ctx.run)
    assert image.shape[1:] == teacher.about.shape[1:]  # resized, and of the teacher's colours
    out, _ = teacher.net.apply(teacher.variables, image, train=False)
    total, gap, _ = expected(one, out.logits['target'], 2.0, 0.0)
    np.testing.assert_allclose(value, total, rtol=1e-4)
    np.testing.assert_allclose(value, 4 * aux.metrics['divergence'], rtol=1e-5)
    assert gap > 1e-4


def test_a_probe_teaches_the_labels():
    one = setting('distill')
    images, labels = one.ctx.batch['image'], np.asarray(one.ctx.batch['label'])
    sizes = np.bincount(labels, minlength=CLASSES)
    features = np.asarray(one.net.source(images).features)
    part = Part(tuple('abcde'), labels, sizes, None, None, lambda: features)
    head = one.method.prepare(one.net, Data(part), jax.random.key(0)).frozen['teacher']
    assert {name: x.shape for name, x in head.items()} == {'kernel': (4, CLASSES), 'bias': (CLASSES,)}
    z = one.net.source(images).features @ head['kernel'] + head['bias']
    assert losses.cross_entropy(z, jnp.asarray(labels)).mean() < np.log(CLASSES)


@pytest.mark.parametrize('name', ['distill', 'selftrain'])
def test_a_teacher_of_other_classes_is_refused(name):
    knobs = {'teacher': 'random://7', 'network': 'tiny'} if name == 'distill' else {'teachers': 'embedded://glyphnet'}
    one = setting(name, **knobs)
    part = Part(tuple('abcde'), np.arange(5), np.ones(5), None, None)
    with pytest.raises(UserError, match='are not the 5 that are needed'):
        one.method.prepare(one.net, Data(part, None, part), jax.random.key(0))


@pytest.mark.parametrize('name', ['distill', 'selftrain'])
def test_a_teacher_that_does_not_exist_is_named(name, tmp_path):
    knobs = {'distill': 'teacher', 'selftrain': 'teachers'}
    one = setting(name, **{knobs[name]: str(tmp_path / 'none')})
    part = Part(tuple('abcde'), np.arange(5), np.ones(5), None, None)
    with pytest.raises(UserError, match='none'):
        one.method.prepare(one.net, Data(part, None, part), jax.random.key(0))


@pytest.mark.slow
def test_students_of_a_finished_run(tmp_path):
    """A teacher's folder is one of a run; a trained student is read without it."""
    words = {'num_seeds': '1', 'steps': '2', 'eval_every': '2', 'log_every': '1', 'devices': '1'}

    def trained(folder, **more):
        experiment.run(config_lib.load('quickstart', list((words | more).items())), tmp_path / folder)

    trained('teacher', **{'method.name': 'finetune'})
    trained('student', **{'method.name': 'distill', 'method.teacher': str(tmp_path / 'teacher')})
    trained('other', **{'method.name': 'selftrain', 'method.teachers': f'{tmp_path}/teacher, {tmp_path}/teacher'})
    kept = np.load(tmp_path / 'student' / 'prepared-0.npz')
    teacher = models.read(tmp_path / 'teacher')
    kernel = teacher.variables['params']['heads']['target']['kernel']
    assert any(x.shape == kernel.shape and np.array_equal(x, kernel) for x in kept.values())
    pseudo = np.load(tmp_path / 'other' / 'prepared-0.npz')
    (rows,) = (x for x in pseudo.values() if x.ndim == 2)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)
    assert len(np.unique(rows)) > 100  # probabilities, not votes

    (tmp_path / 'teacher').rename(tmp_path / 'gone')
    assert mixjax.load(tmp_path / 'student').classes == tuple('0123456789')
