"""The whole search, on folders of handwritten digits with the embedded network: what it finds, keeps and says."""

import json
import shutil

import numpy as np
import pytest

import mixjax
from mixjax import inference
from mixjax.errors import UserError
from mixjax.report import best as page
from mixjax.search import best, trials
from tests.support.common import call
from tests.support.digits import write_digits
from tests.support.once import once
from tests.support.page import Page

NETWORK = 'glyphnet'
SETTINGS = {'devices': 1, 'search.folds': 3, 'search.repeats': 1, 'batch_size': 16}


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Eight of each of four digits, with a copy, a wrong label, and a file that is no image."""

    def fill(root):
        write_digits(root, 8)
        shutil.copy(root / '0' / '0.png', root / '0' / 'copy.png')
        shutil.copy(root / '1' / '3.png', root / '2' / 'twofold.png')
        shutil.move(root / '0' / '7.png', root / '3' / 'wrong.png')
        (root / '3' / 'broken.png').write_bytes(b'not an image')

    return once(tmp_path_factory, 'digits', fill)


def steady_times(patch):
    """Patch what is measured by constants, and the clock: the plan does not depend on the machine then."""

    def measured(common, trial, folder, *, tested, forward, quiet):
        return trial._replace(step=0.25, start=2.0, fold=0.2)

    patch.setattr(trials, 'measure', measured)
    patch.setattr(best, 'seconds_an_image', lambda setup, batch: 0.001)
    patch.setattr(best, 'FACTORS', (1.0,))
    patch.setattr(best.Search, 'clock', lambda search: 1.0)


@pytest.fixture
def steady(monkeypatch):
    steady_times(monkeypatch)


def search(photos, workdir, **more):
    settings = {**SETTINGS, **more.pop('settings', {})}
    given = {'minutes': 2, 'networks': [NETWORK], 'methods': ['probe', 'lpft'], **more}
    return mixjax.best(photos, workdir, settings=settings, progress=False, **given)


@pytest.fixture(scope='module')
def found(photos, tmp_path_factory):
    """A search with trials of fine-tuning."""
    with pytest.MonkeyPatch.context() as patch:
        steady_times(patch)

        def again(folder):
            return search(photos, folder, minutes=1, unknown=0.1)

        return again(once(tmp_path_factory, 'search', again))


@pytest.fixture(scope='module')
def probed(photos, tmp_path_factory):
    """The folder of a search without trials, and what its command printed: (folder, command, text)."""
    words = ['best', str(photos), '--minutes=2', f'--networks={NETWORK}', '--methods=probe', '--workdir=run',
             '--unknown', *[f'--config.{name}={value}' for name, value in SETTINGS.items()]]  # fmt: skip

    def fill(folder):
        folder.mkdir()
        done = call(folder, *words, module='mixjax')
        assert done.returncode == 0, done.stderr
        (folder / 'printed').write_text(done.stdout)

    folder = once(tmp_path_factory, 'probed', fill)
    return folder, words, (folder / 'printed').read_text()


def test_what_it_finds(found):
    assert found.kind == 'search' and found['images'] == 34 and found['classes'] == ['0', '1', '2', '3']
    tried = {one['label']: one for one in found['tried']}
    assert sum(one['method']['name'] == 'lpft' for one in tried.values()) == 2  # the last stages, and all
    whole = [one for one in tried.values() if one['whole']]
    assert any(one['method']['name'] == 'lpft' for one in whole)
    assert found['winner']['accuracy'] >= max(one['accuracy'] for one in whole) - 0.05
    low, high = found['expected']['interval']
    assert low < found.accuracy.mean < high and found.accuracy.mean <= found['expected']['selected'] + 1e-9


def test_the_wrong_label_is_named_and_the_copies_are(found):
    first = found['doubtful'][0]
    assert (first['image'], first['label'], first['taken for']) == ('3/wrong.png', '3', '0')
    assert sorted(found['contradictions'][0]) == ['1/3.png', '2/twofold.png']
    assert found['measured'] == 32  # nobody knows what these two are
    assert found['copies'] == {'exact': 2, 'alike': 2} and found['independent'] == 31
    assert any('broken.png' in note for note in found['notes'])


def test_it_predicts_with_calibrated_probabilities_and_says_unknown(found, photos):
    predict = found.model()
    about = json.loads((found.workdir / 'model.json').read_text())
    assert about['temperature'] == found['calibration']['temperature'] == predict.temperature
    learned = inference.training_set(found.workdir)  # the run that the network is of
    assert about['run'] in inference.SEARCHED and len(learned.rows) == found['images']
    assert predict.threshold == found['calibration']['threshold'] > 0
    images = predict.read(photos / '0' / '5.png')[None]
    expected = np.exp(predict.logits(images) / predict.temperature)
    np.testing.assert_allclose(predict.probabilities(images), expected / expected.sum(), rtol=1e-5)
    sure = predict.ranked(np.array([0.97, 0.01, 0.01, 0.01]))
    unsure = predict.ranked(np.array([0.26, 0.25, 0.25, 0.24]))
    assert sure.name == '0' and len(sure) == 4
    assert unsure.name == 'unknown' and unsure.probability == pytest.approx(0.74) and unsure[1].name == '0'


def test_the_page_answers_first_and_shows_the_doubtful(found):
    text = found.report().read_text()
    read = Page(text)
    titles = [words for where, words in read.texts if where == 'h2']
    assert titles[:2] == ['What was tried', 'Labels that may be wrong'] and 'More labels' in titles
    assert page.headline(found) in read.text()
    assert f'{found["winner"]["label"]} (chosen)' in read.text()
    assert '3/wrong.png' in read.text() and not read.named('script')
    assert len(read.named('img')) >= len(found['doubtful'])


@pytest.mark.slow  # and real kills are in tests/faults
def test_a_search_that_was_killed_ends_with_the_same_network(photos, tmp_path, steady, monkeypatch):
    """It is stopped after each of its steps in turn, and goes on each time."""
    whole = search(photos, tmp_path / 'whole')
    left = [1]
    real = trials.train

    def train(*args, **named):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args, **named)

    monkeypatch.setattr(trials, 'train', train)
    kills = 0
    while True:
        try:
            again = search(photos, tmp_path / 'again')
            break
        except KeyboardInterrupt:
            kills += 1
            left[0] = kills  # trials that are finished are opened again
    assert kills >= 2
    same = ('winner', 'expected', 'lead', 'calibration', 'doubtful', 'growth')
    for key in same:
        a, b = ({k: v for k, v in one[key].items() if k != 'seconds'} if isinstance(one[key], dict) else one[key]
                for one in (whole, again))  # fmt: skip
        assert a == b, key
    for name in ('model.safetensors', 'best.npz'):
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'again' / name).read_bytes()


def test_without_trials_the_probe_is_the_answer(probed):
    folder, _, printed = probed
    found = json.loads((folder / 'run' / 'best.json').read_text())
    assert found['winner']['method']['name'] == 'probe' and (folder / 'run' / 'model.safetensors').exists()
    assert any('no fine-tuning was tried' in line for line in page.sentences(found))
    assert 'can predict now' in printed and 'expect ' in printed and 'report: run/report.html' in printed
    assert 'glyphnet, logistic' in printed


def test_without_time_for_features_there_is_a_sentence(photos, tmp_path, steady):
    with pytest.raises(UserError, match='no network is fast enough here: give more --minutes'):
        search(photos, tmp_path / 'run', minutes=0.001)


def test_a_test_part_is_kept_for_the_end(photos, tmp_path, steady):
    root = tmp_path / 'parts'
    write_digits(root / 'train', 8)
    write_digits(root / 'train', 10, 1)
    write_digits(root / 'test', 10, first=100)
    found = search(root, tmp_path / 'run', methods=['probe'])
    assert found['images'] == 34 and found['test']['images'] == 40
    assert found.accuracy.mean == found['test']['accuracy']
    again = mixjax.load(tmp_path / 'run')
    images = [p for p in sorted((root / 'test').rglob('*.png'))]
    right = np.mean([one.name == path.parent.name for one, path in zip(again(images), images, strict=True)])
    assert right == pytest.approx(found['test']['accuracy'])


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(photos, tmp_path):
    said = []
    overrides = [('target.dir', str(photos)), ('search.networks', NETWORK)]
    assert best.best(overrides, tmp_path / 'run', say=said.append, quiet=True, dry_run=True) == {}
    assert not (tmp_path / 'run').exists()
    text = '\n'.join(said)
    assert 'copies' in text and 'of two classes' in text and 'folds' in text and 'broken.png' in text
    assert 'features of all images in' in text and 'nothing was trained' in text


def test_other_images_or_settings_need_another_folder(photos, probed, tmp_path):
    shutil.copytree(probed[0] / 'run', tmp_path / 'run')
    (tmp_path / 'run' / 'best.json').unlink()
    words = [word for word in probed[1] if not word.startswith('--minutes')]
    done = call(tmp_path, *words, '--minutes=3', module='mixjax')
    assert done.returncode == 2 and 'holds a search with other settings' in done.stderr
    more = shutil.copytree(photos, tmp_path / 'more')
    shutil.copy(more / '0' / '1.png', more / '1' / 'another.png')
    done = call(tmp_path, *[str(more) if word == str(photos) else word for word in probed[1]], module='mixjax')
    assert done.returncode == 2 and 'holds a search with other' in done.stderr


@pytest.mark.parametrize(
    ('per_class', 'classes', 'words'),
    [(1, 4, 'no class has two'), (5, 1, 'at least 2 are needed'), (0, 0, 'no folder')],
)
def test_folders_that_say_nothing_end_in_a_sentence(tmp_path, per_class, classes, words):
    write_digits(tmp_path / 'photos', per_class, classes)
    with pytest.raises(UserError, match=words):
        search(tmp_path / 'photos', tmp_path / 'run')


def test_everything_a_duplicate_ends_in_a_sentence(tmp_path):
    write_digits(tmp_path / 'photos', 1, 2)
    for name in ('0', '1'):
        for k in range(3):
            shutil.copy(tmp_path / 'photos' / name / '0.png', tmp_path / 'photos' / name / f'again{k}.png')
    with pytest.raises(UserError, match='no class has two'):
        search(tmp_path / 'photos', tmp_path / 'run')


def test_two_images_of_each_class_are_enough_for_an_answer_that_knows_little(tmp_path, steady):
    write_digits(tmp_path / 'photos', 2, 2)
    found = search(tmp_path / 'photos', tmp_path / 'run', methods=['probe'])
    low, high = found['expected']['interval']
    assert high - low > 0.3
    assert any('interval is wide' in line for line in page.sentences(found))


def test_unknown_methods_are_refused_before_anything_is_computed(photos, tmp_path):
    with pytest.raises(UserError, match='lpft'):
        search(photos, tmp_path / 'run', methods=['probe', 'lpf'])
    assert not (tmp_path / 'run').exists()


def test_two_weights_of_one_network_are_told_apart(photos, probed, tmp_path, steady):
    """Twice the same network, under two names; and the logistic regression is cut to the time, to nothing here."""
    twice = [NETWORK, f'{NETWORK}={probed[0] / "run" / "probe"}']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best, 'SECONDS', 1e-2)
        found = search(photos, tmp_path / 'run', networks=twice, methods=['probe'])
    names = {one['label'].partition(',')[0] for one in found['tried']}
    assert names == {'glyphnet-1', 'glyphnet-2'}
    assert {one['method']['kind'] for one in found['tried']} == {'means', 'knn'} and found['growth'] == {}


def test_too_many_probabilities_are_refused_before_anything_is_computed(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(best, 'MOST', 10)
    with pytest.raises(UserError, match='too many'):
        search(photos, tmp_path / 'other', methods=['probe'])
    assert not (tmp_path / 'other').exists()


def test_unknown_networks_and_missing_weights_end_in_a_sentence(photos, tmp_path):
    with pytest.raises(UserError, match='resnet5[05]'):
        search(photos, tmp_path / 'run', networks=['resnet5'])
    with pytest.raises(UserError, match='missing'):
        search(photos, tmp_path / 'run', networks=['resnet50=nowhere/model.safetensors'])


def test_the_commands_after_a_search(photos, probed, tmp_path):
    shutil.copytree(probed[0] / 'run', tmp_path / 'run')
    done = call(tmp_path, 'predict', '--workdir=run', str(photos), module='mixjax')
    assert done.returncode == 0 and 'accuracy' in done.stdout
    done = call(tmp_path, 'report', 'run', module='mixjax')
    assert done.returncode == 0, done.stderr
    done = call(tmp_path, *probed[1], module='mixjax')
    assert 'nothing was trained' in done.stdout
    wrong = call(tmp_path, 'best', str(photos), '--minutes=soon', module='mixjax')
    assert wrong.returncode == 2 and 'must be a number' in wrong.stderr
