"""A method's own measures over the test part: in the log, the results and the report."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax import losses, report
from mixjax.data.feed.augment import Geometry
from mixjax.data.feed.batches import Images
from mixjax.method import Aux, Method
from mixjax.models.net import Net, Out
from mixjax.report import tables
from mixjax.train import accuracy
from tests.support.common import lines

CHANGES = {
    'num_seeds': '2', 'target.per_class': '4', 'target.val': '0.25', 'steps': '4', 'eval_every': '2', 'log_every': '2',
    'optim.lr': '0.05', 'eval_batch_size': '200',
}  # fmt: skip


def make(classes_t):
    def loss(net, params, ctx):
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        return losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

    def measures(out, label):
        p = jax.nn.softmax(out.logits['target'])
        return {
            'right': p.argmax(-1) == label,
            'brier': jnp.square(p - losses.one_hot(label, classes_t)).sum(-1),
            'label': label,
        }

    return Method(loss, measures=measures)


def run(folder, **changes):
    config = config_lib.load('quickstart', list({**CHANGES, **changes}.items()))
    config = config.unlock()
    config.compare, config.baseline = {}, ''
    return mixjax.train.run(config, folder, method=make, progress=False)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('measures') / 'run'
    return folder, run(folder)


def test_the_measures_are_means_over_the_test_part(done):
    folder, results = done
    found = np.load(folder / 'predictions.npz')
    assert list(results['measures']) == ['brier', 'label', 'right']
    for place, seed in enumerate(results['seeds']):
        assert seed['measures']['right'] == seed['accuracy']
        np.testing.assert_allclose(seed['measures']['label'], found['label'][place].mean(), rtol=1e-12)
        test = mixjax.inference.test_set(folder)
        if not place:  # the exported network is that of the first seed
            p = mixjax.load(folder).probabilities(test.image)
            brier = np.square(p - np.eye(10)[test.label]).sum(-1).mean()
            np.testing.assert_allclose(seed['measures']['brier'], brier, rtol=1e-4)
    brier = [seed['measures']['brier'] for seed in results['seeds']]
    assert results['measures']['brier'] == {'mean': np.mean(brier), 'std': np.std(brier, ddof=1), 'n': 2}


def test_they_are_logged_with_every_evaluation(done):
    folder, results = done
    logged = [line for line in lines(folder / 'metrics.jsonl') if line['kind'] in ('eval', 'val')]
    assert len(logged) == 2 * 2 * 2
    for line in logged:
        assert line['right'] == line['accuracy'] and 0 < line['brier'] < 2
    last = {line['seed']: line for line in logged if (line['kind'], line['step']) == ('eval', 4)}
    assert {seed: line['brier'] for seed, line in last.items()} == {
        one['seed']: one['measures']['brier'] for one in results['seeds']
    }


def test_they_are_the_same_on_one_device(tmp_path):
    """In float64: in float32 the rounding of another order of sums grows with every step."""
    with jax.enable_x64(True):
        every, alone = (
            run(tmp_path / devices, **{'devices': devices, 'model.dtype': 'float64'}) for devices in ('2', '1')
        )
    for one, other in zip(every['seeds'], alone['seeds'], strict=True):
        for name in ('right', 'label'):
            assert one['measures'][name] == other['measures'][name]
        np.testing.assert_allclose(one['measures']['brier'], other['measures']['brier'], rtol=1e-9)


def test_the_report_and_the_tables_show_them(done):
    folder, results = done
    head, row = tables.accuracy_text(results).splitlines()[-2:]
    assert head.split() == ['method', 'brier', 'label', 'right']
    assert f'{results["measures"]["brier"]["mean"]:.4g} +- {results["measures"]["brier"]["std"]:.2g}' in row
    page = report.write(folder).read_text()
    assert 'Measures of the methods over the test images' in page and 'brier over steps' in page
    assert '| method | brier | label | right |' in (folder / 'results.md').read_text()
    with (folder / 'results.csv').open() as file:
        values = list(csv.DictReader(file))
    assert [float(line['measure brier']) for line in values] == [one['measures']['brier'] for one in results['seeds']]


def test_a_run_without_measures_has_no_trace_of_them(tmp_path):
    config = config_lib.load('quickstart', [*CHANGES.items(), ('method.name', 'finetune'), ('num_seeds', '1')])
    results = mixjax.train.run(config, tmp_path / 'run', progress=False)
    assert 'measures' not in results and 'measures' not in results['seeds'][0]
    evaluated = [line for line in lines(tmp_path / 'run/metrics.jsonl') if line['kind'] == 'eval']
    assert [*evaluated[0]] == ['seed', 'step', 'kind', 'accuracy', 'loss', 'mean_per_class', 'top5']
    assert 'measure' not in report.write(tmp_path / 'run').read_text().casefold().replace('measured', '')


def test_a_mean_that_is_not_finite_is_not_known():
    results = {
        'kind': 'run', 'label': 'a', 'accuracy': {'mean': 0.5, 'std': None, 'n': 1},
        'seeds': [{'seed': 0, 'accuracy': 0.5}], 'measures': {'x': {'mean': None, 'std': None, 'n': 1}},
    }  # fmt: skip
    assert tables.accuracy_text(json.loads(json.dumps(results))).splitlines()[-1].split() == ['a', '-']


def test_examples_that_fill_a_batch_up_are_not_counted():
    def apply(variables, image, *, train):
        del variables, train
        return Out({'target': jnp.zeros((len(image), 2))}, image[:, 0, 0], {}), {}

    # 1 / value is infinite for the zeros that fill the last batch up.
    method = Method(loss=None, measures=lambda out, label: {'x': 1 / out.features[:, 0], 'half': jnp.bfloat16(label)})
    net = Net(init=None, apply=apply, group=None, redraw=None)
    one = accuracy.make(net, method, Geometry(1, 0, False, (0.0,) * 3, (1.0,) * 3))
    image = np.full((5, 1, 1, 3), 51, np.uint8)
    found, _ = accuracy.measure_each(
        lambda variables, *batch: jax.tree.map(lambda x: x[None], one(variables, *map(jnp.asarray, batch))),
        {}, list(accuracy.batches(Images(image, np.array([0, 1, 1, 0, 1], np.int32)), 3)), 5,
    )  # fmt: skip
    np.testing.assert_allclose([found[0]['x'], found[0]['half']], [5.0, 0.6], rtol=1e-6)
