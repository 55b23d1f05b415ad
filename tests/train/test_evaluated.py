"""Variables that a method evaluates, parameters that it adds, and heads that it fits itself."""

import jax
import numpy as np
import pytest

import mixjax
from mixjax import losses, models
from mixjax.analysis import opened as opened_run
from mixjax.errors import UserError
from mixjax.method import Aux, Head, Method, Prepared
from mixjax.methods import finetune
from mixjax.models import weights
from mixjax.train import accuracy
from tests.support.common import Tiny, assert_trees_equal, final_state, lines
from tests.support.toy import given, opened, settings, train, walk


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def averaged(classes_t, *, decay: float = 0.9):
    """Fine-tuning, evaluated by a moving average of its parameters."""
    plain = finetune.make(classes_t)

    def after_step(net, old, new, aux, ctx):
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ctx.state['average'], new)
        return new, {'average': average}

    return plain._replace(
        init=lambda net, params, prepared, data: {'average': params},
        after_step=after_step,
        evaluated=lambda net, variables, state: {**variables, 'params': state['average']},
    )


def short(name, **changes):
    return settings(name, steps=9, log_every=3, eval_every=3, checkpoint_every=3, **changes)


def test_the_average_is_evaluated_exported_and_analysed(tmp_path):
    with given(averaged) as name:
        results = train(short(name), tmp_path / 'run')
        state = final_state(tmp_path / 'run', 0, 9)
        exported = weights.load(str(tmp_path / 'run')).variables
        built, data, ts = opened(short(name), tmp_path)
        ts, _ = walk(built, data, ts, 9)
        found = accuracy.measure(built.evaluate, built.evaluated(ts), *data.test)[0]
        trained = accuracy.measure(built.evaluate, {'params': ts.params, **ts.model_state}, *data.test)[0]
        run = opened_run.open_run(mixjax.host.storage.to_place(tmp_path / 'run'))
        (network,), _ = opened_run.networks(run)
    for path, leaf in jax.tree_util.tree_leaves_with_path(exported['params']):
        key = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(leaf, state["['state']['average']" + key])
    assert any((state["['params']" + key] != state["['state']['average']" + key]).any() for key in keys_of(exported))
    assert found['loss'] != trained['loss']
    *_, line = [line for line in lines(tmp_path / 'run' / 'metrics.jsonl') if line['kind'] == 'eval']
    assert line['loss'] == found['loss'] and results['accuracy']['mean'] == found['accuracy']
    assert_trees_equal(jax.tree.map(np.asarray, network.variables['params']), exported['params'])


def keys_of(variables):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables['params'])]


def test_the_best_step_of_the_average_is_kept(tmp_path):
    with given(averaged) as name:
        config = short(name, keep='best')
        with config.unlocked():
            config.synthetic.per_class, config.target.val = 6, 0.34
        results = train(config, tmp_path / 'run')
        (seed,) = results['seeds']
        exported = weights.load(str(tmp_path / 'run'))
        state = final_state(tmp_path / 'run', 0, seed['step'])
    assert exported.about['step'] == seed['step']
    for path, leaf in jax.tree_util.tree_leaves_with_path(exported.variables['params']):
        np.testing.assert_array_equal(leaf, state["['state']['average']" + jax.tree_util.keystr(path)])


def adapted(classes_t, *, size: float = 0.5):
    """A frozen network with a shift of the features that is trained beside it."""

    def parameters(net, params, rng):
        width = params['heads']['target']['kernel'].shape[0]
        return {**params, 'shift': {'bias': size * jax.random.normal(rng, (width,))}}

    def network(variables):
        kept = {name: variables['params'][name] for name in ('backbone', 'heads')}
        head = kept['heads']['target']
        moved = head['bias'] + variables['params']['shift']['bias'] @ head['kernel']
        return {**variables, 'params': {**kept, 'heads': {'target': {**head, 'bias': moved}}}}

    def loss(net, params, ctx):
        out, _ = net.apply(network(ctx.variables(params)), ctx.batch['image'], train=False)
        return losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean(), Aux(ctx.model_state)

    groups = {'trunk': (0.0, 0.0), 'shift': (2.0, 0.0)}
    return Method(
        loss, parameters=parameters, evaluated=lambda net, variables, state: network(variables), groups=groups
    )


def test_added_parameters_are_trained_and_leave_no_trace_in_the_exported_network(tmp_path):
    with given(adapted) as name:
        train(short(name), tmp_path / 'run')
        exported = weights.load(str(tmp_path / 'run')).variables
        built, data, ts = opened(short(name), tmp_path)
        before = np.array(ts.params['shift']['bias'])
        ts, _ = walk(built, data, ts, 9)
    assert set(exported['params']) == {'backbone', 'heads'}
    assert (np.array(ts.params['shift']['bias']) != before).all()
    start = final_state(tmp_path / 'run', 0, 6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(exported['params']['backbone']):
        np.testing.assert_array_equal(leaf, start["['params']['backbone']" + jax.tree_util.keystr(path)])
    head, shift = (ts.params[key] for key in ('heads', 'shift'))
    moved = head['target']['bias'][0] + shift['bias'][0] @ head['target']['kernel'][0]
    np.testing.assert_allclose(exported['params']['heads']['target']['bias'], moved, rtol=1e-6, atol=1e-7)


def test_groups_may_be_a_function_of_the_path(tmp_path):
    seen = set()

    def biases(classes_t):
        def groups(path, params):
            seen.add((path, 'backbone' in params))
            return (1.0, 1.0) if path[-1] == 'bias' else (0.0, 0.0)

        return finetune.make(classes_t)._replace(groups=groups)

    with given(biases) as name:
        built, data, ts = opened(short(name), tmp_path)
        before = jax.tree.map(np.array, ts.params)
        ts, _ = walk(built, data, ts, 3)
    moved = {
        path[-1].key: (np.array(leaf) != was).any()
        for (path, leaf), was in zip(
            jax.tree_util.tree_leaves_with_path(ts.params), jax.tree.leaves(before), strict=True
        )
    }
    assert moved == {'bias': True, 'kernel': False, 'scale': False}
    assert (('heads', 'target', 'kernel'), True) in seen


def fitted(classes_t, *, width: int = 8):
    """A head that `prepare` makes: the nearest class mean. Nothing is trained."""

    def prepare(net, data, rng):
        means = np.asarray(data.target.class_means())
        bias = -0.5 * np.square(means).sum(1)
        return Prepared({'kernel': means.T.astype(np.float32)[:width], 'bias': bias.astype(np.float32)})

    def heads(classes_t, classes_s, prepared):
        return {'target': Head(classes_t, kernel=prepared.frozen['kernel'], bias=prepared.frozen['bias'])}

    return Method(finetune.make(classes_t).loss, prepare=prepare, heads=heads, trains=False)


def test_a_method_that_does_not_train_is_evaluated_once(tmp_path):
    with given(fitted) as name:
        results = train(short(name, num_seeds=2, devices=1), tmp_path / 'run')
        exported = weights.load(str(tmp_path / 'run')).variables['params']['heads']['target']
        assert train(short(name, num_seeds=2, devices=1), tmp_path / 'run') == results
    found = lines(tmp_path / 'run' / 'metrics.jsonl')
    assert [(line['seed'], line['step'], line['kind']) for line in found] == [(0, 9, 'eval'), (1, 9, 'eval')]
    made = np.load(tmp_path / 'run' / 'prepared-0.npz')
    np.testing.assert_array_equal(exported['kernel'], made['frozen/kernel'])
    np.testing.assert_array_equal(exported['bias'], made['frozen/bias'])
    assert results['accuracy']['n'] == 2
    # Its report and its predictions are those of any run.
    from mixjax import report

    page = report.write(mixjax.host.storage.to_place(tmp_path / 'run'))
    assert 'fitted' in page.read_text()


def test_a_streamed_method_that_does_not_train_reads_no_batch(tmp_path):
    with given(fitted) as name:
        train(short(name, feed='stream'), tmp_path / 'run')
    assert len(lines(tmp_path / 'run' / 'metrics.jsonl')) == 1


def replaced(**functions):
    def make(classes_t):
        return averaged(classes_t)._replace(**functions)

    return make


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'evaluated': lambda net, variables, state: state['average']}, 'evaluated returned a dict of 2; return'),
        (
            {'evaluated': lambda net, variables, state: {**variables, 'params': {'heads': state['average']['heads']}}},
            'other variables than those of the network',
        ),
        ({'evaluated': lambda net, variables, state: net.pretrained()}, 'config.model.weights'),
        ({'parameters': lambda net, params, rng: {'heads': params['heads']}}, 'returned another network'),
        ({'parameters': lambda net, params, rng: {**params, 'name': {'x': 'text'}}}, "the text 'text'"),
        ({'parameters': lambda net, params, rng: 3}, 'return a dict such as'),
        ({'heads': lambda t, s, prepared: {'target': Head(t, kernel=np.zeros((8, t)))}}, 'both a kernel of shape'),
        (
            {'heads': lambda t, s, prepared: {'target': Head(t, kernel=np.zeros((7, t)), bias=np.zeros(t))}},
            r'the kernel of a head must be of shape \(8, 10\)',
        ),
        ({'evaluated': 'average'}, 'must be a function'),
    ],
)
def test_mistakes_end_in_a_sentence(fields, sentence, tmp_path):
    with given(replaced(**fields)) as name, pytest.raises(UserError, match=sentence):
        train(short(name), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_an_earlier_method_has_its_trained_variables(tmp_path):
    built, _, ts = opened(short('smile'), tmp_path)
    assert built.evaluated(ts)['params'] is ts.params
