"""Calibration of finished runs: on which predictions, what is kept, and who uses it."""

import json

import numpy as np
import pytest

import mixjax
from mixjax import report
from mixjax.errors import UserError
from mixjax.maths import selection
from mixjax.search import calibrate, folds
from tests.support.common import call
from tests.support.digits import write_digits
from tests.support.once import once


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A probe on digits by the command, calibrated at its end on the validation part: the folder of the run."""

    def fill(folder):
        write_digits(folder / 'digits', 16)
        words = ['train', '--config=folder', f'--config.target.dir={folder / "digits"}', '--config.model.name=glyphnet',
                 '--config.model.weights=embedded://glyphnet', '--config.method.name=probe', '--config.devices=1',
                 '--config.target.val=0.5', '--config.calibrate=val', '--config.steps=1', '--config.batch_size=8',
                 '--workdir=run']  # fmt: skip
        done = call(folder, *words, module='mixjax')
        assert done.returncode == 0, done.stderr
        (folder / 'printed').write_text(done.stdout)

    return once(tmp_path_factory, 'calibrated', fill)


def test_the_temperature_is_that_of_the_validation_part(runs):
    run = runs / 'run'
    found = json.loads((run / calibrate.FILE).read_text())
    about = json.loads((run / 'model.json').read_text())
    held = calibrate.validation(run)
    assert held.origin == found['origin'] == 'validation images' and found['examples'] == len(held.label) > 20
    best = selection.fit_temperature(held.logits, held.label)
    assert found['temperature'] == about['temperature'] in (best, 1.0)
    before = selection.calibration(held.logits, held.label)
    assert found['before']['error'] == pytest.approx(before.error) and found['before']['brier'] == before.brier
    assert found['after']['brier'] <= found['before']['brier']
    assert found['test']['examples'] == 12  # a fifth of each class, which the run was tested on
    assert f'fitted to {len(held.label)} {held.origin}' in (runs / 'printed').read_text()


def test_prediction_uses_it(runs):
    run = runs / 'run'
    predictor = mixjax.load(run)
    temperature = json.loads((run / 'model.json').read_text())['temperature']
    image = predictor.read(runs / 'digits' / '0' / '0.png')[None]
    expected = np.exp(selection.log_softmax(predictor.logits(image) / temperature))
    np.testing.assert_allclose(predictor.probabilities(image), expected, rtol=1e-4)


def test_the_report_shows_it(runs):
    text = report.write(runs / 'run').read_text()
    assert 'Share that is right by the probability that was said' in text and 'validation images</caption>' in text
    assert 'On 12 test images' in text and 'The surest images' in text


def test_without_a_validation_part_folds_are_trained(runs, tmp_path):
    """As the run was, on its labelled images alone; none is predicted by a network that has learned from it."""
    words = ['train', '--config=folder', f'--config.target.dir={runs / "digits"}', '--config.model.name=glyphnet',
             '--config.model.weights=embedded://glyphnet', '--config.method.name=probe', '--config.devices=1',
             '--config.method.kind=means', '--config.target.val=0', '--config.keep=last', '--config.steps=1',
             '--config.batch_size=8', '--workdir=run']  # fmt: skip
    assert call(tmp_path, *words, module='mixjax').returncode == 0
    done = call(tmp_path, 'calibrate', 'run', module='mixjax')
    assert done.returncode == 2 and 'no validation part' in done.stderr and '--folds=5' in done.stderr
    done = call(tmp_path, 'calibrate', 'run', '--folds=2', '--unknown', module='mixjax')
    assert done.returncode == 0, done.stderr
    assert 'fitted to 52 images that 2 folds left out' in done.stdout and 'report: run/report.html' in done.stdout
    found = json.loads((tmp_path / 'run' / calibrate.FILE).read_text())
    about = json.loads((tmp_path / 'run' / 'model.json').read_text())
    assert about['unknown'] == {'threshold': found['threshold'], 'share': 0.05} and found['examples'] == 52
    inner = json.loads((tmp_path / 'run' / calibrate.FOLDER / 'run' / 'config.json').read_text())
    assert inner['method']['kind'] == 'means' and inner['num_seeds'] == 2 and inner['calibrate'] == ''


def test_folds_of_some_rows_are_folds_of_all_that_leave_the_others_alone():
    rows = np.array([1, 4, 5, 8, 9, 11])
    drawn = calibrate.within(folds.draw(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), count=3, repeats=1), rows, 12)
    assert drawn.held.shape == (12, 1, 3) and drawn.measured.nonzero()[0].tolist() == rows.tolist()
    for fold in range(3):
        assert set(drawn.learned[fold]) < set(rows.tolist())
        assert not set(drawn.learned[fold]) & set(drawn.of(fold).nonzero()[0].tolist())


def test_the_surest_images_are_kept_first():
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]))
    found = calibrate.kept_against_right(logits, np.array([0, 0, 1, 0]))  # the least sure one is wrong
    assert found[0] == {'kept': 1.0, 'right': 0.75} and found[-1] == {'kept': 0.5, 'right': 1.0}


def test_a_search_is_calibrated_already(tmp_path):
    (tmp_path / 'best.json').write_text('{}')
    with pytest.raises(UserError, match='calibrated by its folds already'):
        calibrate.calibrate(tmp_path, say=print)
