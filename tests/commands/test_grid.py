"""A grid: which runs there are, where they lie, and that each is trained once."""

import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mixjax import config as config_lib
from mixjax.commands import cli
from mixjax.commands import grid as grid_lib
from mixjax.commands import train as main_lib
from mixjax.commands.parser import parse
from mixjax.commands.table import TRAIN
from mixjax.errors import UserError
from tests.support.common import ROOT, environment

GRID = """
from mixjax.config import read

CELLS = ['labels=1', 'labels=2', 'labels=01', 'compare']

def grid():
    return CELLS

def get_config(argument):
    config = read('quickstart')
    if argument != 'compare':
        config.compare, config.baseline = {}, ''
        config.target.per_class = int(argument.split('=')[1])
    return config
"""
PAGES = sorted([ROOT / 'launch/README.md', ROOT / 'configs/digits/grid.py', *(ROOT / 'docs').glob('*.md')])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with mine.py, outside of any engine."""
    monkeypatch.chdir(tmp_path)
    for name in (*grid_lib.INDICES, *grid_lib.RANKS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'mine.py').write_text(GRID)
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """What `mixjax train` was asked to do, instead of doing it."""
    asked = []

    def main(words):
        asked.append(words)
        command = parse(TRAIN, words)
        config = config_lib.load(command['config'], command.overrides)
        folder = Path(command['workdir'])
        folder.mkdir(parents=True)
        (folder / 'config.json').write_text(config.to_json())
        (folder / 'results.json').write_text(json.dumps({'steps': config.steps}))
        return 0

    monkeypatch.setattr(main_lib, 'main', main)
    return asked


def said(capsys, *words: str) -> list[str]:
    assert cli.run('grid', words) == 0
    return capsys.readouterr().out.splitlines()


def folders(capsys, *words: str) -> list[str]:
    return [line.split()[-1] for line in said(capsys, *words, '--list')]


def test_count_is_a_number_and_needs_no_accelerator(here):
    env = {**environment(), 'JAX_PLATFORMS': 'none_of_these', 'TFDS_DATA_DIR': 'nowhere'}

    def spent(*words):
        """The process, and its seconds of processor time."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *words], cwd=here, env=env, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Beside the import of the libraries it needs, so that a slow or busy machine is no failure.
    _, libraries = spent('-c', 'import jax, flax.linen')
    done, whole = spent('-m', 'mixjax', 'grid', 'configs/digits/grid.py', '--count')
    assert (done.returncode, done.stdout, done.stderr) == (0, '4\n', '')
    assert whole < 2 * libraries, (whole, libraries)
    assert [path.name for path in here.iterdir()] == ['mine.py']


def test_cells_with_equal_configs_are_one_run(here, capsys):
    assert said(capsys, 'mine.py', '--count') == ['3']
    lines = said(capsys, 'mine.py', '--list')
    assert [line.split()[0] for line in lines] == ['0', '1', '2']
    assert lines[0].split()[1:4] == ['labels=1', '=', 'labels=01']
    names = [line.split()[-1] for line in lines]
    assert names[0].startswith('runs/mine/digits-finetune-1-') and names[2].startswith('runs/mine/digits-comparison-3-')
    assert len(set(names)) == 3 and all(re.search('-[0-9a-f]{10}$', name) for name in names)


def test_run_name_depends_on_settings_not_paths(here, capsys):
    before = folders(capsys, 'mine.py')
    (here / 'elsewhere').mkdir()
    (here / 'elsewhere' / 'other.py').write_text(GRID.replace("'labels=1', ", '').replace("'labels=2', ", ''))
    # In another file, in another order, with other places: the same runs.
    words = ['elsewhere/other.py', '--runs=runs/mine/', '--config.data_dir=x', '--config.cache_dir=y']
    assert folders(capsys, *words, '--config.results=z.md') == [before[0], before[2]]
    assert folders(capsys, 'mine.py', '--config.steps=401')[0] != before[0]
    assert folders(capsys, 'mine.py', '--runs=a')[0] == before[0].replace('runs/mine', 'a')
    assert folders(capsys, 'digits/grid')[0].startswith('runs/digits/grid/digits-finetune-3-')
    assert folders(capsys, 'configs/digits/grid.py') == folders(capsys, 'digits/grid')


def test_run_name_stays_when_weights_appear(here, capsys):
    words = ['mine.py', '--config.model.weights=weights/net.safetensors']
    before, cell = folders(capsys, *words), 'mine.py:labels=1'
    crop = config_lib.load(cell, [('model.weights', 'weights/net.safetensors')]).image.crop
    (here / 'weights').mkdir()
    (here / 'weights' / 'net.safetensors').touch()
    (here / 'weights' / 'net.json').write_text(json.dumps({'image': {'crop': crop - 2}}))
    assert config_lib.load(cell, [('model.weights', 'weights/net.safetensors')]).image.crop == crop - 2
    assert folders(capsys, *words) == before
    assert folders(capsys, *words, f'--config.image.crop={crop - 2}') != before


def test_grids_may_share_a_folder(here, capsys):
    for name in ('first', 'second'):
        (here / f'{name}.py').write_text(f"RUNS = 'both'\n{GRID}")
    found = folders(capsys, 'first.py')
    assert found == folders(capsys, 'second.py') and all(folder.startswith('runs/both/') for folder in found)
    assert folders(capsys, 'first.py', '--runs=a')[0].startswith('a/digits-')


def test_a_grid_can_be_tried(here, capsys, trained):
    """A trial has the index and the name of its run, and lies where no report of the real ones finds it."""
    real, trials = said(capsys, 'mine.py', '--list'), said(capsys, 'mine.py:smoke', '--list')
    # Two labels or one make no difference to a trial on made-up images; they are two runs all the same.
    assert trials[0].split()[1:4] == ['labels=1,smoke', '=', 'labels=01,smoke'] and len(trials) == len(real) == 3
    for line, trial in zip(real, trials, strict=True):
        assert line.split()[0] == trial.split()[0]
        assert trial.split()[-1] == line.split()[-1].replace('runs/mine/', 'runs/smoke/mine/')
    assert folders(capsys, 'mine.py:smoke,full')[0] == folders(capsys, 'mine.py')[0].replace('runs', 'runs/smoke_full')
    assert folders(capsys, 'mine.py:smoke', '--runs=a/b')[0].startswith('a/smoke/b/digits-')
    assert said(capsys, 'mine.py:smoke', '--config.steps=7', '--count') == ['3']
    told = said(capsys, 'mine.py:smoke', '--run', '1')[0]
    assert told.startswith('run 1 of 3, mine.py:labels=2,smoke: runs/smoke/mine/digits-finetune-2-')
    assert trained[0][:2] == ['--config=mine.py:labels=2,smoke', f'--workdir={folders(capsys, "mine.py:smoke")[1]}']
    assert json.loads((here / folders(capsys, 'mine.py:smoke')[1] / 'results.json').read_text()) == {'steps': 2}
    # What was tried is not done.
    assert said(capsys, 'mine.py', '--status')[0].split() == ['done', '0']
    assert said(capsys, 'mine.py:smoke', '--status')[0].split() == ['done', '1', '1']


def test_trial_folder_stays_in_its_bucket(store):
    assert str(grid_lib.trials('gs://bucket', 'smoke')) == 'gs://bucket/smoke'
    assert str(grid_lib.trials('gs://bucket/runs/a', 'smoke,full')) == 'gs://bucket/runs/smoke_full/a'
    assert str(grid_lib.trials('gs://bucket/runs', '')) == 'gs://bucket/runs'


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        ({}, 'all'),
        ({'per_class': 3}, '3'),
        ({'rate': 0.15}, '0.15'),
        ({'classes': 0.25, 'images': 400}, 'c25_n400'),
        ({'classes': 50.0}, '50classes'),
        ({'counts': (3, 0, 7)}, 'n10'),
        ({'splits': 'x/splits.json'}, 'splits'),
        ({'rate': 0.3, 'add_rest': True}, '0.3_rest'),
        ({'images': 9, 'per_class': 3}, 'n9'),  # what decides, as in the draw
    ],
)
def test_a_name_says_which_images_are_labelled(settings, name):
    target = config_lib.base().target
    target.update(settings)
    assert grid_lib.split(target) == name


def test_the_runs_of_a_table_are_told_apart_by_their_names(here, capsys):
    found = folders(capsys, 'tables/smile_table2')
    heads = [Path(folder).name.rpartition('-')[0] for folder in found]
    assert len(set(heads)) == len(found) == 108 and heads[8] == 'cub200-smile-c25_n400'
    assert folders(capsys, 'tables/smile_table2:smoke') == [
        folder.replace('runs/tables', 'runs/smoke/tables') for folder in found
    ]


def test_a_run_that_an_older_version_named_goes_on(here, capsys, trained):
    words = ['mine.py', '--config.target.classes=0.5']
    new = folders(capsys, *words)[1]
    old = new.replace('-c50_2-', '-2-')
    assert old != new
    (here / old).mkdir(parents=True)
    (here / old / 'results.json').write_text(json.dumps({'steps': 400}))
    assert folders(capsys, *words)[1] == old
    assert said(capsys, *words, '--run', '1') == [f'run 1 of 3, mine.py:labels=2: finished before, in {old}']
    # Where both are there, it is the new one.
    (here / new).mkdir()
    assert folders(capsys, *words)[1] == new


def test_a_run_that_an_older_version_named_goes_on_in_a_store(here, capsys, store):
    words = ['mine.py', '--config.target.classes=0.5', '--runs=gs://bucket/grid']
    old = folders(capsys, *words)[1].replace('-c50_2-', '-2-').removeprefix('gs://bucket/')
    store.put('bucket', f'{old}/config.json', b'{}')
    store.put('bucket', f'{old}/results.json', json.dumps({'steps': 400}).encode())
    assert said(capsys, *words, '--status')[0].split() == ['done', '1', '1']


def test_a_run_is_trained_once(here, capsys, trained):
    words = ['mine.py', '--config.steps=7', '--config.cache_dir=c d']
    assert said(capsys, *words, '--run', '1')[0].startswith(
        'run 1 of 3, mine.py:labels=2: runs/mine/digits-finetune-2-'
    )
    folder = folders(capsys, *words)[1]
    assert trained == [
        ['--config=mine.py:labels=2', f'--workdir={folder}', '--config.steps=7', '--config.cache_dir=c d',
         '--config.results=']
    ]  # fmt: skip
    (line,) = said(capsys, *words, '--run=1')
    assert line == f'run 1 of 3, mine.py:labels=2: finished before, in {folder}' and len(trained) == 1


def test_the_exit_code_is_that_of_the_training(here, monkeypatch):
    for code in (0, 2, 42, 130):
        monkeypatch.setattr(main_lib, 'main', lambda words, code=code: code)
        assert cli.run('grid', ['mine.py', '--run', '0']) == code


def test_array_index_comes_from_the_cluster(here, capsys, trained, monkeypatch):
    for name, index in (('JOB_COMPLETION_INDEX', '2'), ('SLURM_ARRAY_TASK_ID', '0')):
        monkeypatch.setenv(name, index)
        assert said(capsys, 'mine.py', '--run', 'auto')[0].startswith(f'run {index} of 3')
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '3')
    assert cli.run('grid', ['mine.py', '--run', 'auto']) == 2
    assert 'SLURM_ARRAY_TASK_ID must be a whole number from 0 to 2' in capsys.readouterr().err


def test_status_lists_remaining_runs(here, capsys, trained):
    def counts():
        return [line.split() for line in said(capsys, 'mine.py', '--status')]

    assert counts() == [['done', '0'], ['running', '0'], ['begun', '0'], ['missing', '3', '0-2']]
    said(capsys, 'mine.py', '--run', '1')
    (here / folders(capsys, 'mine.py')[2]).mkdir()
    (here / folders(capsys, 'mine.py')[2] / 'config.json').write_text('{}')
    assert counts() == [['done', '1', '1'], ['running', '0'], ['begun', '1', '2'], ['missing', '1', '0']]
    assert [grid_lib.ranges(i) for i in ([], [3], [0, 1, 2, 5, 7, 8])] == ['', '3', '0-2,5,7-8']


def test_two_processes_do_not_train_the_same_run(here, capsys, monkeypatch):
    found = {}

    def another(*words, **env):
        command = [sys.executable, '-m', 'mixjax', 'grid', 'mine.py', *words]
        return subprocess.run(command, cwd=here, env={**environment(), **env}, capture_output=True, text=True)

    def while_training(words):
        found['run'] = another('--run', '0')
        found['status'] = another('--status')
        return 0

    monkeypatch.setattr(main_lib, 'main', while_training)
    assert cli.run('grid', ['mine.py', '--run', '0']) == 0
    assert found['run'].returncode == grid_lib.BUSY == 3
    assert 'run 0 of 3, mine.py:labels=1: another process trains it' in found['run'].stderr
    assert found['status'].stdout.split()[:5] == ['done', '0', 'running', '1', '0']
    assert 'running     0' in said(capsys, 'mine.py', '--status')  # the lock is free again


def test_the_processes_of_one_job_share_the_lock(here, monkeypatch):
    (run, *_) = grid_lib.runs('mine.py', [], 'runs')
    with grid_lib.exclusive(run) as first:
        monkeypatch.setenv('SLURM_PROCID', '1')
        with grid_lib.exclusive(run) as second:
            assert first and second
        monkeypatch.setenv('SLURM_PROCID', '0')
        with grid_lib.exclusive(run) as other_job:
            assert not other_job


def test_runs_in_a_store(here, capsys, store):
    assert cli.run('grid', ['mine.py', '--runs=s3://bucket/runs', '--list']) == 2
    assert 's3://bucket/runs: the only object store that works is gs://BUCKET/FOLDER' in capsys.readouterr().err
    where = '--runs=gs://bucket/grid'
    every = [line.split()[-1] for line in said(capsys, 'mine.py', where, '--list')]
    assert len(every) == 3 and all(folder.startswith('gs://bucket/grid/') for folder in every)
    name = every[1].removeprefix('gs://bucket/')
    store.put('bucket', f'{name}/config.json', b'{}')
    store.put('bucket', f'{name}/results.json', json.dumps({'steps': 400}).encode())
    assert said(capsys, 'mine.py', where, '--status')[0].split() == ['done', '1', '1']
    assert said(capsys, 'mine.py', where, '--run', '1')[0].endswith(f'finished before, in {every[1]}')


WRONG_FILES = {
    'none': ('x = 1', 'which lists arguments for get_config; {path!r} has none'),
    'empty': ('def grid(): return []', "{path!r} has another"),
    'numbers': ('def grid(): return [1]', '{path!r} has another'),
    'text': ("grid = lambda: 'abc'", '{path!r} has another'),
    'raises': ('def grid(): return 1 / 0', 'could not be read: ZeroDivisionError'),
    'broken': ('def grid(', 'could not be read: SyntaxError'),
    'cell': (GRID.replace('labels=2', 'labels=two'), "cell 1 of the grid, 'labels=two': config {path!r}: ValueError"),
    'place': (f"RUNS = '../elsewhere'\n{GRID}", "RUNS is the name of a folder in runs/, not '../elsewhere'"),
    'no_place': (f'RUNS = 1\n{GRID}', 'RUNS is the name of a folder in runs/, not 1'),
    'value': (GRID.replace('labels=2', 'labels=-2'), "cell 1 of the grid, 'labels=-2': config.target.per_class"),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG_FILES)
def test_wrong_files_end_in_one_sentence(name, here, capsys):
    text, sentence = WRONG_FILES[name]
    (here / f'{name}.py').write_text(text)
    assert cli.run('grid', [f'{name}.py', '--run', '0']) == 2
    error = capsys.readouterr().err
    assert sentence.format(path=f'{name}.py') in error and len(error.splitlines()) == 1
    assert error.startswith('mixjax: ') and not (here / 'runs').exists()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--count'], 'give one FILE, not 0'),
        (['mine.py', 'other.py', '--count'], 'give one FILE, not 2'),
        (['mine.py'], 'give one of --count, --list, --run=INDEX and --status'),
        (['mine.py', '--count', '--list'], 'give one of --count'),
        (['mine.py', '--cuont'], "unknown flag --cuont; did you mean 'count'"),
        (['mine.py', '--count=3'], '--count takes no value'),
        (['mine.py', '--run'], '--run needs a value'),
        (['mine.py', '--run', '0', '--run', '1'], '--run is given twice'),
        (['mine.py', '--run', '3'], "--run must be a whole number from 0 to 2, not '3'"),
        (['mine.py', '--run', '-1'], "--run must be a whole number from 0 to 2, not '-1'"),
        (['mine.py', '--run', '٣'], '--run must be a whole number'),
        (['mine.py', '--run', 'auto'], '--run auto: none of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX is set'),
        (['mine', '--count'], "there is no config 'mine'"),
        (['mine.py:labels=1', '--count'], 'a grid file takes no argument but :smoke'),
        (['mine.py', '--count', '--config.optm.lr=1'], "cell 0 of the grid, 'labels=1': unknown config key 'optm.lr'"),
        (['quickstart', '--count'], "'quickstart' has none"),
    ],
)
def test_wrong_commands_end_in_one_sentence(words, sentence, here, capsys):
    assert cli.run('grid', words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and not captured.out and len(captured.err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_to(here, capsys, monkeypatch):
    (here / 'runs').write_text('a file')
    assert cli.run('grid', ['mine.py', '--run', '0']) == 2
    assert 'runs/mine cannot be written to' in capsys.readouterr().err


def test_help(capsys):
    assert cli.run('grid', ['--help']) == 0
    assert '--status' in capsys.readouterr().out


def test_a_run_of_a_grid_is_an_ordinary_run(here, capsys):
    words = ['digits/grid', '--config.steps=2', '--config.num_seeds=1', '--config.devices=1', '--runs=runs']
    told = said(capsys, *words, '--run', '0')
    assert told[0].startswith('run 0 of 4, digits/grid:method=finetune,per_class=3: runs/digits-finetune-3-')
    (folder,) = [path for path in (here / 'runs').iterdir() if path.name != '.locks']
    assert {'config.json', 'results.json', 'report.html'} <= {path.name for path in folder.iterdir()}
    assert 'finished before' in said(capsys, *words, '--run', '0')[0]


# --- what the documentation says --------------------------------------------------------------------------------------


def commands() -> list[str]:
    found = []
    for page in PAGES:
        found += re.findall(r'^    (mixjax grid .*?)(?:  +#.*)?$', page.read_text(), re.MULTILINE)
    return found


@pytest.mark.slow
def test_the_documented_commands_load(here, monkeypatch, trained):
    (code,) = re.findall(r'```python\n(.*?def grid.*?)```', (ROOT / 'docs/pods.md').read_text(), re.DOTALL)
    (here / 'study.py').write_text(code)
    (here / 'configs').mkdir()
    (here / 'configs' / 'study.py').write_text(code)
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '1')
    assert len(commands()) >= 5
    for line in commands():
        words = shlex.split(line.replace('/shared', 'shared').replace('gs://my-bucket', 'bucket'))[3:]
        assert cli.run('grid', words) == 0, line


def test_the_documented_grid_has_as_many_runs_as_the_page_says(here, capsys):
    page = (ROOT / 'docs/pods.md').read_text()
    (code,) = re.findall(r'```python\n(.*?def grid.*?)```', page, re.DOTALL)
    (here / 'study.py').write_text(code)
    assert said(capsys, 'study.py', '--count') == ['108'] and '108 runs' in page
    with pytest.raises(UserError, match='dataset'):
        config_lib.load('study.py:dataset=cubb,method=smile,rate=1')
