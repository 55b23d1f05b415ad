"""The command as a person uses it: real processes, real folders."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from mixjax.commands.parser import parse
from mixjax.commands.table import TRAIN
from mixjax.commands.train import command_line, main
from mixjax.errors import UserError
from mixjax.report import write as write_report
from tests.support import harm
from tests.support.common import SHORT, assert_same_run, call, kill_after, lines

SMILE = ['--config=quickstart', '--config.method.name=smile', *SHORT]


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> Path:
    """A folder with the work directory `run` of a short SMILE run, two seeds, never interrupted."""
    folder = tmp_path_factory.mktemp('finished')
    done = call(folder, *SMILE, '--config.num_seeds=2', '--workdir=run')
    assert done.returncode == 0, done.stderr
    (folder / 'output.txt').write_text(done.stdout)
    return folder


def test_train_output_and_files(finished):
    text, run = (finished / 'output.txt').read_text(), finished / 'run'
    assert text.startswith('smile on 3 labels per class of digits: 2 seeds x 24 steps, batch 48, glyphnet')
    assert re.search(r'smile +\d\d\.\d\d \+- \d+\.\d\d +2  +\d+\.\d\d( +\d+\.\d\d)?\n', text)
    assert re.search(r'report: run/report.html$', text.strip())
    left = {path.name for path in run.iterdir()}
    assert left == {
        'config.json', 'env.json', 'inputs.json', 'splits.json', 'metrics.jsonl', 'timing.jsonl',
        'prepared-0.npz', 'prepared-1.npz',
        'checkpoints', 'samples.npz', 'results.json', 'model.safetensors', 'model.json', 'report.html',
        'predictions.npz', 'results.md', 'results.csv',
    }  # fmt: skip
    results = json.loads((run / 'results.json').read_text())
    assert results['accuracy']['n'] == 2 and results['test_examples'] == 1797 - 30
    found = [seed['accuracy'] for seed in results['seeds']]
    np.testing.assert_allclose(results['accuracy']['mean'], np.mean(found))
    np.testing.assert_allclose(results['accuracy']['std'], np.std(found, ddof=1))
    assert [(m['seed'], m['step']) for m in lines(run / 'metrics.jsonl') if m['kind'] == 'eval'] == [
        (seed, step) for seed in (0, 1) for step in (8, 16, 24)
    ]
    env = json.loads((run / 'env.json').read_text())
    assert env['command'] == 'mixjax train ' + ' '.join(
        ['--config=quickstart', '--workdir=run', '--config.method.name=smile', *SHORT, '--config.num_seeds=2']
    )
    everything = b''.join(p.read_bytes() for p in run.rglob('*') if p.is_file() and 'checkpoints' not in p.parts)
    assert str(finished).encode() not in everything and str(Path.home()).encode() + b'/' not in everything


@pytest.mark.faults
def test_killed_run_resumes_to_the_same_results(finished, tmp_path):
    words = [*SMILE, '--config.num_seeds=2', '--workdir=run']
    kill_after(tmp_path, 0, 20, *words)  # after the checkpoint of step 16, with lines beyond it
    kill_after(tmp_path, 1, 12, *words)
    assert not (tmp_path / 'run' / 'results.json').exists()
    again = call(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert_same_run(finished / 'run', tmp_path / 'run', range(2), 24)
    for name in ('samples.npz', 'prepared-1.npz', 'predictions.npz', 'results.csv', 'report.html'):
        assert (tmp_path / 'run' / name).read_bytes() == (finished / 'run' / name).read_bytes()


def test_finished_run_can_only_be_extended(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, 'devices', lambda *_: one)  # as in the process that began the run
    shown = ('report.html', 'results.md', 'results.csv')
    before = {path: path.stat().st_mtime_ns for path in Path('run').rglob('*') if path.name not in shown}
    words = [*SMILE, '--config.num_seeds=2', '--workdir=run']
    assert main(words) == 0
    assert 'holds a finished run' in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in Path('run').rglob('*') if path.name not in shown}
    assert after == before

    assert main([*words, '--config.optim.lr=0.02', '--config.seed=5']) == 2
    error = capsys.readouterr().err
    assert 'optim.lr: 0.01 there, 0.02 now' in error and 'seed: 0 there, 5 now' in error
    assert main([*words, '--config.steps=10']) == 2  # fewer steps than are done
    assert 'steps: 24 there, 10 now' in capsys.readouterr().err

    with pytest.raises(SystemExit, match='^42$'), harm.terminated(harm.logged(finished, 28)):
        main([*words, '--config.steps=32'])
    capsys.readouterr()
    assert main(words) == 2 and 'steps: 32 there, 24 now' in capsys.readouterr().err
    with pytest.raises(UserError, match='is being extended'):
        write_report('run')
    assert main([*words, '--config.steps=32']) == 0
    found = lines(Path('run/metrics.jsonl'))
    assert [m['step'] for m in found if m['seed'] == 0 and m['kind'] == 'train'] == list(range(4, 33, 4))
    assert json.loads(Path('run/results.json').read_text())['steps'] == 32
    assert json.loads(Path('run/model.json').read_text())['steps'] == 32


@pytest.mark.parametrize('config', ['xmixup_dogs', 'smile_cub', 'lamix_cifar100'])
def test_missing_data_and_weights_in_one_message(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nowhere'))
    assert main([f'--config={config}', f'--workdir={tmp_path / "run"}']) == 2
    error = capsys.readouterr().err
    assert error.startswith('mixjax: cannot start') and 'looked in' in error and 'Traceback' not in error
    wanted = {
        'xmixup_dogs': ['stanford_dogs', 'imagenet2012', 'hf://timm/resnet50.tv_in1k', 'hf download timm/'],
        'smile_cub': ['cub200', 'hf://timm/resnet50.tv_in1k'],
        'lamix_cifar100': ['cifar100', 'mixjax prepare'],
    }[config]  # fmt: skip
    for text in wanted:
        assert text in error
    assert ':smoke' in error
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        ([], '--config is missing'),
        (['--config=quickstart'], '--workdir is missing'),
        (['--config=quickstart', '--wrkdir=x'], "unknown flag --wrkdir; did you mean 'workdir'"),
        (['--config=quickstart', '--workdir=x', 'stray'], "unexpected 'stray'"),
        (['--config=quickstart', '--workdir=x', '--workdir=y'], '--workdir is given twice'),
        (['--config=quickstart', '--workdir'], '--workdir needs a value'),
        (['--config=quickstart', '--workdir=x', '--config.optm.lr=1'], "did you mean 'optim.lr'"),
        (['--config=quickstart', '--workdir=x', '--config.target.per_class=400'], 'has only'),
        (['--config=quickstart', '--workdir=x', '--config.model.weights=nothing'], 'weights nothing are missing'),
        (['--config=quickstart', '--workdir=x', '--config.model.weights=embedded://x'], 'embedded weights are'),
        (['--config=quickstart', '--workdir=x', '--config.method.name=xmixup', '--config.source.name='], 'source.name'),
        (['--config=quickstart', '--workdir=x', '--config.source.name=digits'], 'trained on'),
        (['--config=quickstart', '--workdir=x', '--config.method.name=xmixup', '--config.model.weights='], 'weights'),
        (['--config=quickstart', '--workdir=x', '--config.method.name=smile', '--config.model.weights='], 'weights'),
    ],
)  # fmt: skip
def test_train_refuses_wrong_flags_in_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.startswith('mixjax: ') and 'Traceback' not in captured.err


def test_train_refuses_more_target_than_source_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # 160 target classes, 10 source classes, and stand-in weights of the source's ten.
    words = ['--config=quickstart', '--config.method.name=xmixup', '--config.target.name=glyphs', '--workdir=run']
    words += ['--config.source.name=digits', '--config.model.weights=random://10']
    assert main(words) == 2
    assert '160 target classes cannot each get a separate source class' in capsys.readouterr().err


def test_comparison_checks_all_methods_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['--config=quickstart', '--config.model.weights=', '--workdir=run']) == 2
    captured = capsys.readouterr()
    assert 'config.model.weights' in captured.err and 'seed 0' not in captured.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('wrong', ['--config.target.per_class=400', '--config.model.dtype=float64'])
def test_refused_setting_leaves_workdir_empty(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ['--config=quickstart', '--config.method.name=finetune', '--workdir=run', wrong]
    assert main(words) == 2
    assert not list(tmp_path.iterdir())


def test_train_exit_code(tmp_path):
    done = call(tmp_path, '--config=quikstart', '--workdir=x')
    assert done.returncode == 2
    assert done.stderr.startswith("mixjax: there is no config 'quikstart'; did you mean 'quickstart'")


def test_train_help_and_list(capsys):
    assert main(['--help']) == 0
    assert '--workdir=DIR' in capsys.readouterr().out
    assert main(['--list']) == 0
    assert 'xmixup' in capsys.readouterr().out


def test_recorded_command_has_no_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f'--config={tmp_path}/mine.py', '--workdir', f'{tmp_path}/runs/a', '--config.seed=3', '--process=1']
    assert command_line(parse(TRAIN, words)) == 'mixjax train --config=mine.py --workdir=runs/a --config.seed=3'
    elsewhere = parse(TRAIN, ['--workdir=/elsewhere/b', '--changed_code=accept', '--config=x'])
    assert command_line(elsewhere) == 'mixjax train --workdir=.../b --changed-code=accept --config=x'


def test_train_refuses_a_folder_of_other_files(tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('precious')
    assert main(['--config=quickstart', f'--workdir={tmp_path}']) == 2
    assert 'is not a work directory' in capsys.readouterr().err


def test_importing_maths_loads_no_heavy_library(tmp_path):
    heavy = ['tensorflow_datasets', 'grain', 'orbax', 'sklearn', 'matplotlib', 'flax', 'tensorflow', 'ml_collections']
    script = f"""
import sys, time
import jax, jax.numpy
start = time.process_time()
from mixjax import losses, mix
assert time.process_time() - start < 0.5
assert not [m for m in {heavy} if m in sys.modules], sys.modules.keys()
"""
    (tmp_path / 'light.py').write_text(script)
    done = call(tmp_path, module='light')
    assert done.returncode == 0, done.stderr
