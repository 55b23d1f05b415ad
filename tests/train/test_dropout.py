"""Each forward pass of a step draws its own dropout mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import method_registry
from mixjax.method import Aux, Method
from mixjax.models.net import bind, call_keys, from_linen
from mixjax.rundir import checkpoint
from mixjax.train import experiment, mesh, program, seed_batch, seeds, step
from tests.support.common import assert_trees_equal


class Dropping(nn.Module):
    """A linear stem whose features are dropped by half, so a mask is seen in them."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, image, *, train, tap):
        hidden = tap('stem', nn.relu(nn.Conv(8, (3, 3), name='stem')(image)))
        hidden = tap('stage1', nn.relu(nn.Conv(8, (3, 3), name='stage1')(hidden)))
        return hidden.mean((1, 2)), {'stage1': hidden, 'last': hidden}


def settings(**changes):
    config = config_lib.base()
    config.method = {'name': 'finetune'}
    config.model.name = 'dropping'
    config.target.name, config.source.name = 'synthetic', 'glyphs'
    config.synthetic.per_class, config.synthetic.side = 2, 16
    config.image.resize, config.image.crop = 16, 16
    config.image.mean = config.image.std = (0.5,)
    config.optim.schedule, config.optim.lr = 'constant', 0.1
    config.batch_size, config.steps, config.devices = 16, 6, 1
    config.update(changes)
    return config_lib.settle(config_lib.complete(config))


def rdrop(calls=2, **given):
    """R-Drop's loss: the cross-entropy is left out, what remains is the divergence of the passes over one batch."""

    def loss(net, params, ctx):
        said = []
        for _ in range(calls):
            options = {key: make(ctx) for key, make in given.items()}
            out, state = net.apply(ctx.variables(params), ctx.batch['image'], train=True, **options)
            said.append(jax.nn.log_softmax(out.logits['target']))
        p, q = said[0], said[-1]
        kl = 0.5 * ((jnp.exp(p) - jnp.exp(q)) * (p - q)).sum(-1).mean()
        return kl - 0.1 * p[:, 0].mean(), Aux(state, {'kl': kl, 'first': p[0, 0], 'other': q[0, 0]})

    return Method(loss)


@pytest.fixture
def use(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'dropping', lambda dtype=None: Dropping())

    def use(method):
        monkeypatch.setattr(method_registry, 'load', lambda name, *_: lambda classes_t: method)

    return use


def begun(config, folder):
    built = program.build(config)
    one = seeds.open_seed(built, 0, folder)
    return built, seed_batch.place_seeds(built, [one]), seed_batch.stack_states(built, [one.state]), one


def walk(built, data, ts, steps):
    out = []
    for _ in range(steps):
        ts, metrics = built.advance(1)(ts, built.shared.start, data.frozen, data.inputs)
        out.append({name: float(value[0]) for name, value in metrics.items()})
    return ts, out


def test_two_passes_of_one_batch_disagree_and_a_restart_repeats_them(use, tmp_path):
    use(rdrop())
    built, data, ts, _ = begun(settings(), tmp_path)
    middle, before = walk(built, data, ts, 3)
    with checkpoint.open_folder(tmp_path / 'checkpoints') as manager:
        checkpoint.save(manager, 3, mesh.take_trial(middle, 0))
        manager.wait_until_finished()
        # Another process would trace the step anew.
        fresh, data_again, _, one = begun(settings(), tmp_path)
        resumed = seed_batch.stack_states(fresh, [checkpoint.restore(manager, 3, one.state)])
    straight, rest = walk(built, data, middle, 3)
    again, rest_again = walk(fresh, data_again, resumed, 3)
    assert all(line['kl'] > 1e-6 for line in before + rest)
    assert rest == rest_again
    assert_trees_equal(straight, again)


@pytest.mark.parametrize('calls', [1, 2])
def test_the_first_pass_has_the_mask_of_the_steps_own_key_and_the_second_another(calls, use, tmp_path):
    use(rdrop(calls))
    built, data, ts, one = begun(settings(), tmp_path)
    _, (metrics,) = walk(built, data, ts, 1)
    ctx = step.context(built.feed, built.run, one.state, (), one.inputs)
    key = jax.random.fold_in(step.keys(one.state.key).dropout, 0)

    def said(rng):
        out, _ = built.net.apply(ctx.variables(one.state.params), ctx.batch['image'], train=True, rng=rng)
        return float(jax.nn.log_softmax(out.logits['target'])[0, 0])

    assert metrics['first'] == pytest.approx(said(key), rel=1e-5)
    last = key if calls == 1 else jax.random.fold_in(key, 1)
    assert metrics['other'] == pytest.approx(said(last), rel=1e-5)
    assert calls == 1 or abs(said(last) - said(key)) > 1e-4


def test_parts_of_a_batch_and_after_step_have_masks_of_their_own(use, tmp_path):
    method = rdrop()
    seen = {}

    def after_step(net, old, new, aux, ctx):
        out, _ = net.apply(ctx.variables(old), ctx.batch['image'], train=True)
        return new, {'said': jax.nn.log_softmax(out.logits['target'])[0, 0]}

    use(method._replace(after_step=after_step, init=lambda *_: {'said': jnp.zeros(())}))
    built, data, ts, _ = begun(settings(), tmp_path)
    ts, (metrics,) = walk(built, data, ts, 1)
    seen['after'] = float(ts.state['said'][0])
    assert len({round(x, 6) for x in (metrics['first'], metrics['other'], seen['after'])}) == 3

    (tmp_path / 'cut').mkdir()
    use(method)
    changes = {'accumulate': 2, 'mix': {'groups': 2, 'shards': 1}}
    built, data, ts, _ = begun(settings(**changes), tmp_path / 'cut')
    _, lines = walk(built, data, ts, 2)
    assert all(line['kl'] > 1e-6 for line in lines)


def test_a_loss_may_bring_its_own_key(use, tmp_path):
    """The same key twice is the same mask; the whole run, with the pictures of its report, accepts it."""
    use(rdrop(rng=lambda ctx: jax.random.fold_in(ctx.rng, 7)))
    experiment.run(settings(log_every=1), tmp_path / 'run', progress=False)
    assert (tmp_path / 'run' / 'samples.npz').exists()
    import json

    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [line['kl'] for line in lines if line['kind'] == 'train'] == [0.0] * 6


def test_no_key_turns_dropout_off_and_eval_passes_do_not_count():
    net = from_linen(Dropping())
    image = jnp.asarray(np.random.RandomState(0).rand(4, 8, 8, 1), jnp.float32)
    variables = net.init(jax.random.key(0), image, {'target': 3})
    key = jax.random.key(5)
    bound = bind(net, variables, call_keys(key))

    def logits(apply, **options):
        return np.asarray(apply(variables, image, **options)[0].logits['target'])

    plain = logits(net.apply, train=False)
    np.testing.assert_array_equal(logits(bound.apply, train=False), plain)
    np.testing.assert_array_equal(logits(bound.apply, train=True, rng=None), plain)
    for i in range(3):
        rng = jax.random.fold_in(key, i) if i else key
        np.testing.assert_array_equal(logits(bound.apply, train=True), logits(net.apply, train=True, rng=rng))
        np.testing.assert_array_equal(logits(bound.apply, train=True, rng=key), logits(net.apply, train=True, rng=key))
    fixed = bind(net, variables, key)  # as `prepare` has it: what it computes must not depend on who called before
    np.testing.assert_array_equal(logits(fixed.apply, train=True), logits(fixed.apply, train=True))
