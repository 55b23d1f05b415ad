"""A table of a paper with our numbers beside the paper's."""

import csv
import json
import os
import subprocess
import sys

import pytest

from mixjax.commands import cli, grid, paper_table
from mixjax.errors import UserError
from mixjax.report import papers
from tests.support.common import ROOT


def leave(root, table, cell, accuracy=None, analysis=None, *, steps=None, overrides=()):
    """What a run of a cell has left under `root`: a finished one if it has an accuracy."""
    runs = grid.runs(f'tables/{table}', overrides, str(root))
    (run,) = [run for run in runs if any(spec.endswith(f':{cell}') for spec in run.specs)]
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / 'config.json').write_text('{}')
    if accuracy is not None:
        mean, std = accuracy
        results = {'steps': steps or run.config.steps, 'accuracy': {'mean': mean, 'std': std, 'n': 5}}
        (run.folder / 'results.json').write_text(json.dumps(results))
    if analysis is not None:
        (run.folder / 'analysis.json').write_text(json.dumps(analysis))
    return run.folder


def of(found, **wanted):
    (line,) = [line for line in found if all(getattr(line.number, key) == value for key, value in wanted.items())]
    return line


def printed(capsys, *words):
    assert cli.run('report', list(map(str, words))) == 0
    return capsys.readouterr().out.splitlines()


def test_ours_beside_the_papers(tmp_path, capsys):
    leave(tmp_path, 'smile_table2', 'dataset=cub200,split=c25_n400,method=smile', (0.6150, 0.00514))
    leave(tmp_path, 'smile_table2', 'dataset=cub200,split=c25_n400,method=delta')
    out = printed(capsys, '--table=smile_table2', tmp_path)
    assert out[0].split() == ['dataset', 'split', 'method', 'accuracy', '%,', 'ours', 'paper', 'difference']
    assert out[1].split('  ')[0] == 'cub200' and len(out) == 108 + 3
    # 61.50 - 62.13
    assert [line.split() for line in out if 'smile' in line][0] == [
        'smile', '61.50', '+-', '0.51', '(5)', '62.13', '+-', '0.55', '-0.63'
    ]  # fmt: skip
    assert sum('not run' in line for line in out) == 106 and sum('not finished' in line for line in out) == 1
    assert out[-2] == '1 of 108 numbers measured; difference to the paper from -0.63 to -0.63, mean -0.63'
    assert out[-1] == f'table: {tmp_path / "smile_table2.md"}, {tmp_path / "smile_table2.csv"}'


def test_the_files(tmp_path, capsys):
    folder = leave(tmp_path, 'lamix_table8', 'dataset=cifar10,network=resnet50,method=lamix', (0.9625, 0.001))
    printed(capsys, '--table=lamix_table8', tmp_path)
    page = (tmp_path / 'lamix_table8.md').read_text().splitlines()
    assert page[0] == '# LaMix, Table 8'
    assert '| dataset | network | method | error %, ours | paper | difference |' in page
    # 100 - 96.25; the same number is in Table 1.
    assert '| cifar10 | resnet50 | lamix | 3.75 \u00b1 0.10 (5) | 3.60 \u00b1 0.24 | +0.15 |' in page
    assert '| cifar100 | preactresnet18 | lamix\\_without\\_global | not run | 23.03 \u00b1 0.35 |  |' in page
    (note,) = [line for line in page if line.endswith(': the network is printed as PreAct ResNet10')]
    assert note.startswith('* Cifar100, PreAct ResNet10, LaMix w/o global soft label; Cifar10, PreAct ResNet10')
    rows = list(csv.DictReader((tmp_path / 'lamix_table8.csv').read_text().splitlines()))
    assert len(rows) == 8 and tuple(rows[0]) == paper_table.COLUMNS
    (row,) = [row for row in rows if row['state'] == 'measured']
    assert (row['ours'], row['ours_std'], row['ours_n']) == ('3.7500', '0.1000', '5')
    assert (row['paper'], row['paper_std'], row['paper_n'], row['difference']) == ('3.60', '0.24', '5', '0.1500')
    assert row['run'] == folder.name and row['source'] == 'LaMix | Table 8 | Cifar10 | ResNet50 | LaMix'
    assert {row['state'] for row in rows} == {'measured', 'not run'} and rows[0]['ours'] == rows[0]['difference'] == ''


def test_a_run_of_two_tables_is_in_both(tmp_path):
    leave(tmp_path, 'lamix_table1', 'network=preactresnet18,dataset=cifar100,method=mixup', (0.79, None))
    for table in ('lamix_table1', 'lamix_table5'):
        line = of(paper_table.lines(table, tmp_path), dataset='cifar100', network='preactresnet18', method='mixup')
        assert line.ours == paper_table.Spread(pytest.approx(21.0), None, 5) and line.number.value == 21.10


def test_averages_wait_for_all_their_runs(tmp_path):
    datasets = ['cub200', 'stanford_cars', 'flowers102', 'food101', 'stanford_dogs', 'fgvc_aircraft']
    for number, dataset in enumerate(datasets):
        mean = of(paper_table.lines('xmixup_table1', tmp_path), dataset='average', method='bss')
        assert mean.ours is None and mean.state == f'{number} of 6 run'
        leave(tmp_path, 'xmixup_table1', f'dataset={dataset},method=bss', (0.8 + 0.01 * number, 0.002))
    found = paper_table.lines('xmixup_table1', tmp_path)
    mean = of(found, dataset='average', method='bss')
    assert mean.ours == paper_table.Spread(pytest.approx(82.5), None, 6) and mean.number.value == 86.07
    assert of(found, dataset='average', method='xmixup').state == '0 of 6 run'
    assert found[-1].number.dataset == 'average'


def test_measurements_of_finished_runs(tmp_path, capsys):
    measured = {
        'interpolation': {'label_train': 1.5, 'label_test': {'mean': 1.75, 'std': 0.125, 'n': 3}, 'feature_test': None},
        'spectrum': [1, 2],
    }
    leave(tmp_path, 'smile_table4', 'method=smile', (0.7, 0.1), measured)
    leave(tmp_path, 'smile_table4', 'method=mixup', (0.7, 0.1))
    leave(tmp_path, 'smile_table4', 'method=finetune', analysis=measured)
    found = paper_table.lines('smile_table4', tmp_path)
    assert of(found, metric='label_il_train', method='smile').ours == paper_table.Spread(1.5, None, 1)
    assert of(found, metric='label_il_test', method='smile').ours == paper_table.Spread(1.75, 0.125, 3)
    for metric in ('feature_il_train', 'feature_il_test'):
        assert of(found, metric=metric, method='smile').state == 'not measured'
    assert of(found, metric='label_il_test', method='mixup').state == 'not measured'
    assert of(found, metric='label_il_test', method='finetune').state == 'not finished'
    assert of(found, metric='label_il_test', method='finetune_add').state == 'not run'
    out = printed(capsys, '--table=smile_table4', tmp_path)
    assert out[0].split() == ['metric', 'method', 'ours', 'paper', 'difference']
    assert ['smile', '1.75', '+-', '0.12', '(3)', '1.82', '-0.07'] in [line.split() for line in out]


def test_the_probe_is_in_percent(tmp_path):
    analysis = {'probe': {'auxiliary': {'mean': 0.5, 'std': None, 'n': 1}, 'all_but_auxiliary': 0.25, 'n': 1}}
    leave(tmp_path, 'xmixup_table2', 'dataset=cub200,method=xmixup', (0.8, 0.1), analysis)
    found = paper_table.lines('xmixup_table2', tmp_path)
    get = {line.number.metric: line for line in found if line.number[1:3] == ('cub200', 'xmixup')}
    assert get['probe_auxiliary'].ours == paper_table.Spread(50, None, 1)
    assert get['probe_all_but_auxiliary'].ours == paper_table.Spread(25, None, 1)
    assert get['probe_all'].state == 'not measured'


@pytest.mark.parametrize('analysis', [[], {'interpolation': []}, {'interpolation': {'label_train': 'x'}}, {}])
def test_measurements_of_another_format_are_ignored(tmp_path, analysis):
    leave(tmp_path, 'smile_table4', 'method=smile', (0.7, 0.1), analysis)
    found = paper_table.lines('smile_table4', tmp_path)
    assert of(found, metric='label_il_train', method='smile').state == 'not measured'


def test_a_comparison_without_printed_numbers(tmp_path, capsys):
    leave(tmp_path, 'smile_with_mixup', 'dataset=cub200,split=all_15,method=bss_mixup', (0.615, 0.00514))
    leave(tmp_path, 'smile_table2', 'dataset=cub200,split=all_15,method=smile', (0.6250, 0.004))  # the same run
    out = printed(capsys, '--table=smile_with_mixup', tmp_path)
    assert out[0].split() == ['dataset', 'split', 'method', 'accuracy', '%,', 'ours', 'paper', 'difference']
    assert len(out) == 84 + 3 and out[-2] == '2 of 84 numbers measured'
    measured = [line.split()[-5:] for line in out if '+-' in line]
    assert measured == [['bss_mixup', '61.50', '+-', '0.51', '(5)'], ['smile', '62.50', '+-', '0.40', '(5)']]
    page = (tmp_path / 'smile_with_mixup.md').read_text()
    assert (
        page.startswith('# SMILE, abstract\n')
        and '| cub200 | all\\_15 | bss\\_mixup | 61.50 \u00b1 0.51 (5) |  |  |' in page
    )
    rows = list(csv.DictReader((tmp_path / 'smile_with_mixup.csv').read_text().splitlines()))
    (row,) = [row for row in rows if row['method'] == 'bss_mixup' and row['state'] == 'measured']
    assert (row['ours'], row['paper'], row['difference'], row['paper_n']) == ('61.5000', '', '', '')
    assert row['note'] == 'the paper prints no number' and row['source'].startswith(
        'SMILE | abstract | cub200 | all_15'
    )


def test_every_metric_is_known():
    assert {number.metric for number in papers.numbers()} == {*paper_table.PERCENT, *paper_table.MEASURED}


def test_runs_with_other_settings(tmp_path, capsys):
    """The grid's --config.KEY=VALUE names other runs, and so it does here."""
    cell = 'method=smile'
    leave(
        tmp_path, 'smile_table4', cell, (0.7, 0.1), {'interpolation': {'label_train': 1}}, overrides=[('steps', '90')]
    )
    assert printed(capsys, '--table=smile_table4', tmp_path)[-2] == '0 of 16 numbers measured'
    out = printed(capsys, '--table=smile_table4', tmp_path, '--config.steps=90', f'--out={tmp_path / "short.md"}')
    assert out[-2].startswith('1 of 16 numbers measured') and (tmp_path / 'short.csv').exists()


def test_results_of_fewer_steps_do_not_count(tmp_path):
    leave(tmp_path, 'lamix_table6', 'network=resnet50,method=lamix', (0.7, 0.1), steps=10)
    line = of(paper_table.lines('lamix_table6', tmp_path), network='resnet50', method='lamix')
    assert (line.ours, line.state) == (None, 'not finished')


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--table=smile_table1', '{here}'], "unknown table 'smile_table1'; did you mean 'smile_table"),
        (['--table=smile_table2', '{here}/nothing'], 'is not a folder; give the one with the runs of the grid'),
        (['--table=smile_table2', '{here}', '{here}'], '--table takes one folder'),
        (['--table=smile_table2', '{here}', '--config.stepz=3'], "unknown config key 'stepz'; did you mean 'steps'"),
        (['--table=smile_table4', '{here}', '--out={here}/no/such/file.md'], 'cannot be written'),
        (['{here}', '--config.steps=3'], '--config.steps=3 goes with --table'),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(words, sentence, tmp_path, capsys):
    assert cli.run('report', [word.format(here=tmp_path) for word in words]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert list(tmp_path.iterdir()) == []


def test_damaged_results_are_told(tmp_path):
    folder = leave(tmp_path, 'lamix_table6', 'network=resnet50,method=lamix', (None, None))
    with pytest.raises(UserError, match='is damaged: it has no accuracy'):
        paper_table.lines('lamix_table6', tmp_path)
    (folder / 'results.json').write_text('{')
    with pytest.raises(UserError, match='cannot be read'):
        paper_table.lines('lamix_table6', tmp_path)


def test_as_a_command_in_another_folder(tmp_path):
    (tmp_path / 'runs').mkdir()
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'none_of_these'}
    words = [sys.executable, '-m', 'mixjax', 'report', '--table=lamix_table4', 'runs']
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and 'not run' in done.stdout
    assert (tmp_path / 'runs' / 'lamix_table4.csv').exists()
