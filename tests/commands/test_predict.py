"""Predictions with what a run left: the command, and `mixjax.load`."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mixjax
from mixjax import config as config_lib
from mixjax import inference, models
from mixjax.commands import analyse, cli
from mixjax.data.datasets import embedded, folder_scan
from mixjax.data.labelled import run_data
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.rundir.files import read_json
from mixjax.train import experiment, program, seed_batch, seeds, step


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The work directory of two short runs, finetune and xmixup (whose head has source classes too)."""
    folder = tmp_path_factory.mktemp('runs') / 'both'
    config = config_lib.load('quickstart', [('num_seeds', '1'), ('steps', '40'), ('devices', '1')])
    with config.unlocked():
        for label in ('mixup', 'smile', 'lamix'):
            del config.compare[label]
    experiment.run(config, folder)
    return folder


@pytest.fixture(scope='module')
def digits(tmp_path_factory, run):
    """The test set of that run as PNG files, `digits/<class>/<row>.png`."""
    folder = tmp_path_factory.mktemp('photos') / 'digits'
    image, label, _ = embedded.digits()
    labelled = read_json(run / 'finetune' / 'splits.json')['labelled rows']['0']
    for row in np.setdiff1d(np.arange(len(label)), labelled):
        path = folder / str(label[row]) / f'{row}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[row, :, :, 0]).save(path)
    return folder


def reported(run, label):
    return read_json(run / label / 'results.json')['seeds'][0]['accuracy']


@pytest.mark.parametrize('label', ['finetune', 'xmixup'])
def test_the_test_set_has_the_accuracy_that_the_run_reported(label, run, digits, capsys):
    workdir = f'--workdir={run / label}'
    assert cli.run('predict', [workdir, '--json', str(digits)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer['accuracy'] == reported(run, label)
    assert len(answer['predictions']) == answer['labelled'] == 1767
    assert cli.run('predict', [workdir, '--test', '--json']) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again['accuracy'], again['correct']) == (answer['accuracy'], answer['correct'])


def test_the_exported_model_gives_the_logits_of_the_run_bit_for_bit(run):
    """The state of the last checkpoint, through the run's own evaluation path, against the file."""
    folder = run / 'finetune'
    config = config_lib.from_data(read_json(folder / 'config.json'))
    built = program.build(config)
    ended = seeds.open_seed(built, 0, folder)
    from mixjax.rundir import checkpoint

    begin = seed_batch.stack_states(built, [ended.state])
    one = jax.tree.map(lambda x: x[0], begin)
    with checkpoint.open_folder(folder / 'checkpoints' / '0') as manager:
        state = checkpoint.restore(manager, config.steps, one)
    images = seeds.undrawn_images(built.sets, run_data.draw_seed(config, built.sets, 0).train).image[:64]
    loaded = mixjax.load(folder)

    @jax.jit
    def logits(variables, image):
        from mixjax.data.feed import augment

        out, _ = built.net.apply(variables, augment.centre(image, built.shared.geometry), train=False)
        return built.method.predict(out)

    ours = logits(step.variables(state), jnp.asarray(images))
    np.testing.assert_array_equal(loaded.logits(images), np.asarray(ours))
    variables = weights.load(str(folder)).variables
    jax.tree.map(np.testing.assert_array_equal, variables, jax.tree.map(np.asarray, step.variables(state)))


def test_one_photograph_as_text(run, digits, capsys):
    path = next((digits / '3').iterdir())
    assert cli.run('predict', [f'--workdir={run / "finetune"}', '--top=2', str(path)]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(str(path)[:60]) and line.count('%') == 2
    first, second = mixjax.load(run / 'finetune')(path, top=2)
    assert f'{first[0]} {100 * first[1]:.1f} %, {second[0]} {100 * second[1]:.1f} %' in line
    assert first[1] >= second[1] > 0


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_formats_colours_and_orientation(run, digits, tmp_path):
    """One digit in every form that a picture may have gives (nearly) the same answer."""
    grey = Image.open(next((digits / '5').iterdir()))
    large = grey.resize((64, 64), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    model = mixjax.load(run / 'finetune')
    want = model.probabilities(model.read(saved(large, 'PNG'))[None])[0]
    forms = {
        'jpeg': saved(large, 'JPEG', quality=100),
        'colour': saved(large.convert('RGB'), 'PNG'),
        'palette': saved(large.convert('P'), 'PNG'),
        'alpha': saved(large.convert('RGBA'), 'PNG'),
        'gif': saved(large, 'GIF'),
        'cmyk': saved(large.convert('CMYK'), 'JPEG', quality=100),
        'exif': saved(large.rotate(90), 'JPEG', quality=100, exif=exif),
    }
    for name, data in forms.items():
        got = model.probabilities(model.read(data)[None])[0]
        np.testing.assert_allclose(got, want, atol=0.05, err_msg=name)
    turned = model.probabilities(model.read(saved(large.rotate(90), 'PNG'))[None])[0]
    assert np.abs(turned - want).max() > 0.2  # so the camera's turn was undone
    for array in (np.asarray(large), np.asarray(large)[..., None], np.asarray(large.convert('RGB'))):
        assert model(array) == model(saved(large, 'PNG'))
    # A wide picture is seen by its middle square.
    wide = Image.new('L', (128, 64))
    wide.paste(large, (32, 0))
    np.testing.assert_allclose(model.probabilities(model.read(saved(wide, 'PNG'))[None])[0], want, atol=0.05)


def test_a_folder_with_all_sorts_of_files(run, digits, tmp_path, capsys):
    (tmp_path / 'new').mkdir()
    data = next((digits / '7').iterdir()).read_bytes()
    for name in ('a.png', 'b.jpg', '.hidden.png'):  # the content decides, not the name
        (tmp_path / 'new' / name).write_bytes(data)
    (tmp_path / 'new' / 'broken.png').write_bytes(data[:60])
    (tmp_path / 'notes.txt').write_text('hello')
    table = tmp_path / 'table.csv'
    assert cli.run('predict', [f'--workdir={run / "finetune"}', '--json', f'--csv={table}', str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row['file'] for row in answer['predictions']] == [
        str(tmp_path / 'new' / name) for name in ('a.png', 'b.jpg')
    ]
    assert list(answer['unreadable']) == [str(tmp_path / 'new' / 'broken.png')] and 'accuracy' not in answer
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert rows[0]['class1'] == answer['predictions'][0]['top'][0]['class'] and len(rows) == 2
    assert cli.run('predict', [f'--workdir={run / "finetune"}', str(tmp_path)]) == 0
    text = capsys.readouterr().out
    # The table is there now, too.
    assert 'left out, 2 files that are not images' in text and 'left out, 1 image that cannot be read:' in text


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['{run}/finetune'], 'give images or folders, or --test'),
        (['{run}/finetune', '--test', 'x.png'], 'give images or folders, or --test'),
        (['{run}/finetune', '--top=0', 'x.png'], '--top must be at least 1, not 0'),
        (['{run}/finetune', 'nothing.png'], 'there is no file or folder nothing.png'),
        (['{run}', 'x.png'], 'holds several models; give one of'),
        (['nowhere', 'x.png'], 'nowhere are missing'),
        (['{run}/finetune', '{run}/finetune/config.json'], 'config.json cannot be read: it is not a picture'),
        (['{run}/finetune', '{run}/finetune/checkpoints'], 'there is no image in'),
        (['{run}/finetune', '--test', '--csv=/nowhere/t.csv'], 'cannot be written'),
    ],
)
def test_wrong_input_ends_in_one_sentence(words, sentence, run, capsys):
    workdir, *rest = (word.format(run=run) for word in words)
    assert cli.run('predict', [f'--workdir={workdir}', *rest]) == 2
    out, error = capsys.readouterr()
    assert error.startswith('mixjax: ') and sentence in error and 'Traceback' not in error and not out


def test_arrays_of_another_kind_are_refused(run):
    model = mixjax.load(run / 'finetune')
    for array in (np.full((4, 4), 7, np.float32), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(UserError, match='an image must be of shape|floats must be from 0 to 1'):
            model(array)
    with pytest.raises(UserError, match='no.png'):
        model('no.png')
    assert model.logits(np.zeros((0, 16, 16, 1), np.uint8)).shape == (0, 10)


def test_floats_from_0_to_1_are_the_same_images(run, digits):
    """And not 255 times darker ones."""
    model = mixjax.load(run / 'finetune')
    stored = np.stack([model.read(path) for path in sorted((digits / '8').iterdir())[:5]])
    want = model.probabilities(stored)
    assert want.max(1).mean() > 0.5
    for kind in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(model.probabilities((stored / 255).astype(kind)), want)
    np.testing.assert_array_equal(model.probabilities(jnp.asarray(stored / 255, jnp.float32)), want)
    np.testing.assert_array_equal(model.logits(list(stored)), model.logits(stored))
    large = np.kron(stored[0], np.ones((3, 3, 1), np.uint8))
    assert model(large.astype(np.float32) / 255) == model(large)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda x: x.astype(np.float32), r'floats must be from 0 to 1, and these are from 0 to 255'),
        (lambda x: x / 127.5 - 1, r'floats must be from 0 to 1, and these are from -1 to 1'),
        (lambda x: np.where(x == 9, np.nan, x / 255), r'floats must be from 0 to 1, and these are from nan to nan'),
        (lambda x: x.astype(np.int64), r'must be uint8 \(0 to 255\) or floats from 0 to 1, not int64'),
        (lambda x: x > 0, r'not bool'),
        (lambda x: x[0], r'of shape \(n, 16, 16, 1\), .* not \(16, 16, 1\); of a single image give image\[None\]'),
        (lambda x: x[..., 0], r'of shape \(n, 16, 16, 1\), as `read` makes them .* not \(2, 16, 16\)'),
        (lambda x: np.repeat(x, 3, -1), r'not \(2, 16, 16, 3\)'),
        (lambda x: x[:, :8], r'not \(2, 8, 16, 1\)'),
        (lambda x: np.pad(x, ((0, 0), (8, 8), (8, 8), (0, 0))), r'not \(2, 32, 32, 1\)'),
        (lambda x: x[:0, :3], r'not \(0, 3, 16, 1\)'),
    ],
)
def test_images_that_could_mean_several_things_are_refused(change, sentence, run):
    model = mixjax.load(run / 'finetune')
    image = np.arange(512, dtype=np.uint8).reshape(2, 16, 16, 1)
    for function in (model.logits, model.probabilities):
        with pytest.raises(UserError, match=sentence) as found:
            function(change(image))
        assert '\n' not in str(found.value)


def test_an_unknown_network_says_what_to_import_and_only_the_command_line_may(run, tmp_path, monkeypatch, capsys):
    import shutil

    shutil.copytree(run / 'finetune', tmp_path / 'run', ignore=shutil.ignore_patterns('checkpoints'))
    about = json.loads((tmp_path / 'run' / 'model.json').read_text())
    (tmp_path / 'run' / 'model.json').write_text(json.dumps({**about, 'model': 'glyphnot', 'import': 'evil'}))
    (tmp_path / 'evil.py').write_text('raise SystemError("ran")')
    (tmp_path / 'mine.py').write_text(
        'from mixjax import models\nmodels.BACKBONES["glyphnot"] = models.BACKBONES["glyphnet"]\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save('x.png')
    with pytest.raises(UserError, match="unknown network 'glyphnot'; did you mean 'glyphnet'.*--import=MODULE"):
        mixjax.load('run')
    words = ['--workdir=run', 'x.png']
    assert cli.run('predict', [*words, '--import=nothing_there']) == 2
    assert "--import: there is no module 'nothing_there' on the Python path" in capsys.readouterr().err
    assert cli.run('predict', [*words, '--import=os;x']) == 2
    assert "--import: 'os;x' is not the name of a module" in capsys.readouterr().err
    assert cli.run('predict', [*words, '--import=evil']) == 2
    assert '--import: the import raised SystemError: ran (evil.py, line 1' in capsys.readouterr().err
    with pytest.raises(UserError, match='--import belongs on the command line'):
        analyse.of_config('--what=curves --import=mine', 'run')
    try:
        assert cli.run('predict', [*words, '--import=json,mine', '--import=csv']) == 0
        assert capsys.readouterr().out.count('%') == 5
    finally:
        models.BACKBONES.pop('glyphnot', None)


def test_labels_of_folders():
    from pathlib import Path

    classes = ('cat', 'F/A-18')
    assert inference.label_of(Path('cat/a.jpg'), classes) == 'cat'
    assert inference.label_of(Path('F_A-18/old/a.jpg'), classes) == 'F/A-18'
    assert inference.label_of(Path('cat/F_A-18/a.jpg'), classes) == 'cat'  # as training takes it
    assert inference.label_of(Path('photos/cat/F_A-18/a.jpg'), classes) == 'F/A-18'
    assert inference.label_of(Path('cafe\u0301/a.jpg'), ('caf\u00e9',)) == 'caf\u00e9'
    assert (
        inference.label_of(Path('cat.jpg'), classes) is None and inference.label_of(Path('dog/a.jpg'), classes) is None
    )


def test_a_folder_is_searched_as_training_searches_it(run, digits, tmp_path, capsys):
    """Hidden folders of systems and applications, class folders that are links, and links in a circle."""
    for name in sorted(item.name for item in digits.iterdir()):
        if int(name) % 2:
            (tmp_path / 'test' / name).symlink_to(digits / name)
        else:
            shutil.copytree(digits / name, tmp_path / 'test' / name)
            wrong = next((digits / str((int(name) + 2) % 10)).iterdir())
            for inside in (f'{name}/@eaDir', f'{name}/.thumbs', f'__MACOSX/{name}', f'{name}/.more/deep'):
                (tmp_path / 'test' / inside).mkdir(parents=True)
                shutil.copy(wrong, tmp_path / 'test' / inside / 'x.png')
            (tmp_path / 'test' / name / 'up').symlink_to(tmp_path / 'test')
            (tmp_path / 'test' / name / 'other').symlink_to(tmp_path / 'test' / '8')
    os.mkfifo(tmp_path / 'test/0/pipe.png')
    (tmp_path / 'test/4/zero.png').symlink_to('/dev/zero')
    shutil.copy(wrong, tmp_path / 'test/outside.png')
    answers = []
    for folder in (tmp_path / 'test', tmp_path):
        assert cli.run('predict', [f'--workdir={run / "finetune"}', '--json', str(folder)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    for answer in answers:
        assert answer['accuracy'] == reported(run, 'finetune') and answer['labelled'] == 1767
        assert len(answer['predictions']) == 1768  # and the one that lies in no class folder
    assert cli.run('predict', [f'--workdir={run / "finetune"}', str(tmp_path / 'test' / '4')]) == 0
    assert 'left out, 1 file that is not a regular file' in capsys.readouterr().out
    with pytest.raises(UserError, match='not a regular file'):
        mixjax.load(run / 'finetune')(tmp_path / 'test/0/pipe.png')


def test_what_predict_finds_in_a_folder_is_what_training_finds(tmp_path):
    """Parts, classes and links of every kind; the label is the class of the listing."""
    for k, name in enumerate(
        ('Training_set/cat/dog', 'Training_set/dog', 'Training_set/cat', 'test_set/dog/.git', 'test_set/cat')
    ):
        (tmp_path / 'p' / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / 'p' / name / f'{k}.png').write_bytes(b'')
    (tmp_path / 'p/test_set/cat/more').symlink_to('../../Training_set/dog')
    (tmp_path / 'p/test_set/fox').symlink_to('../Training_set/cat/dog')
    inside = folder_scan.list_parts(tmp_path / 'p')
    for part, found in inside.parts.items():
        place = found[0][0].split('/')[0]
        there = inference.files([tmp_path / 'p' / place]).found
        labels = {str(path): inference.label_of(below, ('cat', 'dog', 'fox')) for path, below in there}
        assert labels == {str(tmp_path / 'p' / path): label for path, label in found}, part
    whole = inference.files([tmp_path / 'p']).found
    labels = {str(path.relative_to(tmp_path / 'p')): inference.label_of(below, ('cat', 'dog')) for path, below in whole}
    assert labels == {
        'Training_set/cat/2.png': 'cat', 'Training_set/dog/1.png': 'dog', 'test_set/cat/4.png': 'cat',
        'test_set/fox/0.png': None,
    }  # fmt: skip


def test_the_command_in_a_process_of_its_own(run, digits):
    path = next((digits / '0').iterdir())
    words = [sys.executable, '-m', 'mixjax', 'predict', f'--workdir={run / "finetune"}', str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and '%' in done.stdout and not done.stderr, done
