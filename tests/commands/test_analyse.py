"""A short run of the embedded benchmark, measured through the command; what it says where something is missing."""

import json
import shutil

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.analysis import folders
from mixjax.commands import analyse, cli
from mixjax.commands.table import ANALYSE, MEASURES
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.report import analysis_results
from mixjax.train import experiment, schedule
from tests.support.common import call

SETTINGS = [
    ('method.name', 'finetune'), ('num_seeds', '1'), ('devices', '1'), ('steps', '4'), ('eval_every', '4'),
    ('checkpoint_every', '4'), ('log_every', '2'), ('snapshots', '0.3,1'),
]  # fmt: skip


pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('analysis') / 'run'
    experiment.run(config_lib.load('quickstart', SETTINGS), folder)
    return folder


def test_snapshots_hold_all_tensors_and_their_step(run):
    assert sorted(path.name for path in (run / 'snapshots').iterdir()) == ['1', '4']
    last, first = (weights.load(str(run / 'snapshots' / step)) for step in ('4', '1'))
    exported = weights.load(str(run))
    assert last.tensors.keys() == exported.tensors.keys() == first.tensors.keys()
    for name, tensor in exported.tensors.items():
        np.testing.assert_array_equal(tensor, last.tensors[name])
    assert any((tensor != first.tensors[name]).any() for name, tensor in exported.tensors.items())
    assert (first.about['step'], last.about['step']) == (1, 4)


def test_schedule_stops_at_snapshot_steps():
    config = config_lib.load('quickstart', [('snapshots', '0.11,0.5,1')])
    assert schedule.snapshots(config) == [44, 200, 400]
    config.log_every = config.eval_every = config.checkpoint_every = 1000
    assert [schedule.next_stop(config, step) for step in (0, 44, 199, 200)] == [44, 200, 200, 400]
    for wrong in ('0', '1.5', '0.5,0.5', '0.9,0.1'):
        with pytest.raises(UserError, match='config.snapshots must be rising shares'):
            config_lib.load('quickstart', [('snapshots', wrong)])


def test_analyse_writes_and_prints_numbers(run, capsys):
    words = [f'--workdir={run}', '--what=spectrum,curves,interpolation', '--images=40', '--lams=2', '--tail=3']
    assert cli.run('analyse', words) == 0
    out = capsys.readouterr().out
    assert 'interpolation loss' in out and 'report: ' in out
    found = json.loads((run / 'analysis.json').read_text())
    assert set(found) == {'spectrum', 'curves', 'interpolation'}
    for part in ('train', 'test'):
        for what in ('label', 'feature'):
            one = found['interpolation'][f'{what}_{part}']
            assert one['mean'] > 0 and one['std'] is None and one['n'] == 1
        assert 0 < found['interpolation'][f'label_{part}']['mean'] <= 2
    assert found['interpolation']['settings']['pairs'] == {'train': 30, 'test': 40}
    values = found['spectrum']['values']
    assert len(values) == 3 and values == sorted(values) and 0 <= values[0] < values[2] < 1
    assert found['spectrum']['settings']['of'] == 40 and found['spectrum']['n'] == 1
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    accuracy = [line['accuracy'] for line in lines if line['kind'] == 'eval']
    assert found['curves']['accuracy']['mean'] == accuracy[-1] and found['curves']['best']['fall'] == 0
    arrays = analysis_results.read(run).arrays('spectrum')['values']
    assert arrays.shape == (1, 40) and arrays[0, 0] == 1
    page = (run / 'report.html').read_text()
    assert 'Tail singular values' in page and 'Interpolation loss' in page
    # Again, another measure: the others stay, and the numbers are the same.
    before = (run / 'analysis.json').read_text()
    assert cli.run('analyse', [*words[:1], '--what=spectrum', *words[2:]]) == 0
    assert json.loads((run / 'analysis.json').read_text()) == json.loads(before)
    assert folders.known(run, ['spectrum', 'curves']) and not folders.known(run, ['cam'])


def test_analyse_reports_missing_measures(run, capsys, tmp_path):
    for what, why in (('targets', "no head 'global'"), ('plane', 'glyphnet_plane'), ('sweep', 'of a comparison')):
        assert cli.run('analyse', [f'--workdir={run}', f'--what={what}']) == 2
        assert why in capsys.readouterr().err
    assert cli.run('analyse', [f'--workdir={run}', '--what=probe']) == 2
    assert '--auxiliary=RUN' in capsys.readouterr().err
    alone = shutil.copytree(run, tmp_path / 'alone')
    shutil.rmtree(alone / 'checkpoints')
    assert (
        cli.run('analyse', [f'--workdir={alone}', '--what=spectrum', '--images=20']) == 0
    )  # model.safetensors is enough
    (alone / 'model.safetensors').unlink()
    assert cli.run('analyse', [f'--workdir={alone}', '--what=spectrum']) == 2
    assert 'neither model.safetensors nor checkpoints' in capsys.readouterr().err
    held = json.loads((alone / 'splits.json').read_text())
    held['labelled rows']['0'][0] += 1
    (alone / 'splits.json').write_text(json.dumps(held))
    shutil.copy(run / 'model.safetensors', alone)
    assert cli.run('analyse', [f'--workdir={alone}', '--what=spectrum', '--part=train']) == 2
    assert 'learned from other examples' in capsys.readouterr().err
    (alone / 'results.json').unlink()
    assert cli.run('analyse', [f'--workdir={alone}']) == 2
    assert 'give the command that began it again' in capsys.readouterr().err
    assert cli.run('analyse', [f'--workdir={tmp_path / "nothing"}']) == 2
    assert 'is not a folder' in capsys.readouterr().err


def test_analyse_refuses_wrong_flags_in_one_sentence(capsys):
    cases = {
        '--what=spectrm': "no measure 'spectrm'; did you mean 'spectrum'",
        '--what=': '--what needs one of',
        '--of=odds': "--of must be probabilities or logits, not 'odds'",
        '--lams=0': '--lams must be at least 1, not 0',
        '--images=-1': '--images must be at least 0',
        '--colour=red': 'unknown flag --colour',
    }
    for word, sentence in cases.items():
        assert cli.run('analyse', ['--workdir=x', word]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count('\n') == 1, error
    assert cli.run('analyse', []) == 2 and '--workdir' in capsys.readouterr().err
    with pytest.raises(UserError, match="config.analyse='--what=x': --what: there is no measure 'x'"):
        analyse.of_config('--what=x', 'run')
    with pytest.raises(UserError, match='config.analyse'):
        analyse.of_config('--what="x', 'run')
    assert analyse.of_config('--what=cam --classes=a,b', 'run')['classes'] == ('a', 'b')


def test_measure_names_match_in_table_and_analysis():
    assert MEASURES == folders.WHAT
    assert all(f'\n  {name} ' in ANALYSE.details for name in MEASURES)


def test_analyse_runs_as_a_command(run):
    done = call(run.parent, 'analyse', '--workdir=run', '--what=curves', module='mixjax')
    assert done.returncode == 0 and 'end of training' in done.stdout and done.stderr == '', done.stderr


def test_config_analyse_measures_each_run_of_a_comparison(tmp_path, monkeypatch, capsys):
    """Two seeds of three methods; a method with a joint head, one that learns targets, and the probe of all."""
    from mixjax.main import main

    (tmp_path / 'two.py').write_text(
        'from mixjax.config import read\n\n\ndef get_config():\n'
        "    config = read('quickstart')\n"
        "    config.compare = {'plain': {'name': 'finetune'}, 'x1': {'name': 'xmixup', 'alpha': 1.0},\n"
        "                      'x4': {'name': 'xmixup'}, 'lamix': {'name': 'lamix'}}\n"
        "    config.baseline = 'plain'\n"
        '    config.num_seeds, config.steps, config.eval_every, config.devices = 2, 4, 4, 1\n'
        '    config.snapshots = (0.5, 1.0)\n'
        "    config.analyse = '--what=interpolation,spectrum,probe,targets,cam,sweep --images=60 --probe-steps=50'\n"
        '    return config\n'
    )
    monkeypatch.chdir(tmp_path)
    assert main(['--config=two.py', '--workdir=run']) == 0
    found = {
        label: json.loads((tmp_path / 'run' / label / 'analysis.json').read_text())
        for label in ('plain', 'x1', 'x4', 'lamix')
    }
    for label, one in found.items():
        assert {'interpolation', 'spectrum', 'probe', 'cam'} <= set(one) and ('targets' in one) == (label == 'lamix')
        assert one['interpolation']['label_test']['n'] == 2 and one['interpolation']['label_test']['std'] is not None
        probe = one['probe']
        assert probe['auxiliary']['mean'] > probe['all']['mean'] > 1 / 160
        assert probe['settings']['images']['all']['classes'] == 160
    sweep = json.loads((tmp_path / 'run' / 'analysis.json').read_text())['sweep']
    assert sweep['numbers'] == [1, 4] and set(sweep['others']) == {'plain', 'lamix'} and sweep['over'] == 'alpha'
    targets = found['lamix']['targets']
    assert targets['settings']['steps'] == [2, 4] and 0.5 < targets['top']['original'][0] <= 0.616
    assert sum(targets['top']['mixed']) < 1 and targets['bounds'][1] == pytest.approx(0.232, abs=1e-3)
    assert targets['n'] == 2 and targets['settings']['seeds'] == [0, 1]
    arrays = analysis_results.read(tmp_path / 'run' / 'lamix').arrays('targets')
    assert arrays['mixed_top'].shape == (2, 5) and (arrays['mixed_top'][0] != arrays['mixed_top'][1]).all()
    assert arrays['mixed_top'].mean(0).tolist() == targets['top']['mixed']
    area = analysis_results.read(tmp_path / 'run' / 'lamix').arrays('cam')['area']
    assert area.shape == (2,) and area.mean() == pytest.approx(found['lamix']['cam']['area']['mean'])
    capsys.readouterr()
    # Finished: nothing is trained and nothing measured again.
    before = (tmp_path / 'run' / 'lamix' / 'analysis.json').stat().st_mtime_ns
    assert main(['--config=two.py', '--workdir=run']) == 0
    assert (tmp_path / 'run' / 'lamix' / 'analysis.json').stat().st_mtime_ns == before
    page = (tmp_path / 'run' / 'report.html').read_text()
    for title in ('Accuracy against a setting', 'Soft targets', 'Class activation maps', 'Interpolation loss'):
        assert title in page
    assert main(['--config=two.py', '--workdir=new', '--config.analyse=--what=spectrm']) == 2
    assert 'did you mean' in capsys.readouterr().err and not (tmp_path / 'new').exists()


def test_snapshots_do_not_change_results(run, tmp_path):
    plain = [(key, value) for key, value in SETTINGS if key != 'snapshots']
    experiment.run(config_lib.load('quickstart', plain), tmp_path / 'plain')
    for name in ('metrics.jsonl', 'results.json', 'model.safetensors'):
        assert (run / name).read_bytes() == (tmp_path / 'plain' / name).read_bytes()


def test_plane_measure_covers_all_snapshots(tmp_path):
    extra = [('model.name', 'glyphnet_plane'), ('model.weights', ''), ('target.per_class', '20')]
    extra += [('num_seeds', '2'), ('checkpoint_every', '2')]
    experiment.run(config_lib.load('quickstart', [*SETTINGS, *extra]), tmp_path / 'run')
    assert cli.run('analyse', [f'--workdir={tmp_path / "run"}', '--what=plane', '--classes=3,8']) == 0
    found = json.loads((tmp_path / 'run' / 'analysis.json').read_text())['plane']
    assert found['steps'] == [1, 4] and found['settings']['classes'] == ['3', '8']
    arrays = analysis_results.read(tmp_path / 'run').arrays('plane')
    assert arrays['codes'].shape == (2, 40, 2) and np.abs(arrays['codes']).max() <= 1
    # Of every seed the checkpoints that are kept; the first one's last is its last snapshot, too.
    assert found['checkpoints']['steps'] == [2, 4] and found['n'] == 2 and found['settings']['seeds'] == [0, 1]
    assert arrays['separation'].shape == arrays['accuracy'].shape == (2, 2)
    assert arrays['separation'][0, 1] == found['separation'][1] != arrays['separation'][1, 1]
    assert arrays['accuracy'][0, 1] == found['train accuracy'][1]
    assert found['checkpoints']['separation'][0]['mean'] == pytest.approx(arrays['separation'][:, 0].mean())
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '1' / 'step_2')
    assert cli.run('analyse', [f'--workdir={tmp_path / "run"}', '--what=plane']) == 0
    found = json.loads((tmp_path / 'run' / 'analysis.json').read_text())['plane']
    assert found['checkpoints']['steps'] == [4] and found['n'] == 2
    assert cli.run('analyse', [f'--workdir={tmp_path / "run"}', '--what=plane', '--classes=cat']) == 2
    assert cli.run('analyse', [f'--workdir={tmp_path / "run"}', '--what=cam']) == 2
