"""`make tables-smoke` in small: a few steps are traced, one pair is trained, what has passed is remembered."""

import pytest

from mixjax import config as config_lib
from mixjax.planner import slices, traced
from tests.tables import cells, smoke


@pytest.mark.parametrize('method', ['vanilla', 'lamix'])
def test_a_step_is_traced_at_full_size(method):
    (run,) = [run for run in cells.runs('lamix_table2') if run.specs[0].endswith(f'network=lenet,method={method}')]
    # Of 10 classes it has 62,006; the last layer has 84 inputs, and LaMix has it twice.
    heads = 2 if method == 'lamix' else 1
    (found,) = traced.steps(run.config, slices.find(slices.parse('cpu:1')))
    assert found.parameters == 62_006 - 85 * 10 + heads * 85 * 100
    assert {'loss', 'lr', 'grad_norm'} <= set(found.metrics) and found.label == run.config.method.name


def test_both_stages_are_traced_without_a_pass_over_the_data():
    one = config_lib.load('tables/xmixup_table1:dataset=flowers102,method=seqtrain').unlock()
    one.model.name = 'resnet18'
    first, second = traced.steps(one, slices.find(slices.parse('cpu:1')))
    # Two rounds of 102 classes hold 200,000 of ImageNet's images.
    trunk = 11_689_512 - 513 * 1000
    assert (first.parameters, second.parameters) == (trunk + 513 * 204, trunk + 513 * 102)


def test_a_pair_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run,) = [run for run in cells.runs('lamix_table2') if run.specs[0].endswith('network=lenet,method=vanilla')]
    assert smoke.train(run).startswith('losses ')
    assert list(smoke.FOLDER.iterdir()) == []  # what it left is looked at and removed


def test_passed_cells_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = []
    monkeypatch.setattr(smoke, 'trace', lambda run: done.append(run.specs[0]) or 'fine')
    monkeypatch.setattr(smoke, 'train', lambda run: 1 / 0)
    assert smoke.main(['lamix_table4']) == 1  # four steps of two networks, four pairs
    out, err = capsys.readouterr()
    assert len(done) == 4 and out.count('FAILED: [') == 4 and 'ZeroDivisionError' in err
    assert smoke.main(['lamix_table4', '--minutes=0']) == smoke.OVER == 3
    monkeypatch.setattr(smoke, 'train', lambda run: 'fine')
    assert smoke.main(['lamix_table4']) == 0 and len(done) == 4
    assert '1 tables, 4 numbers, 4 runs: 8 of 8 checks passed' in capsys.readouterr().out
    monkeypatch.setattr(smoke, 'digest', lambda: 'another source')
    assert smoke.main(['lamix_table4']) == 0 and len(done) == 8
