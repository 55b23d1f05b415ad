"""A stranger's folder from the command to predictions, the first run and what follows from it in real processes."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mixjax.commands import cli
from mixjax.commands.train import main
from mixjax.data.datasets import embedded
from tests.support import harm
from tests.support.common import assert_same_run, call, kill_after, lines

NAMES = {0: '<script>alert(1)<', 1: 'null', 2: 'zw\u00f6lf & so', 3: 'drei', 7: "it's"}
PER_CLASS = {0: 30, 1: 12, 2: 20, 3: 6, 7: 25}
NETWORK = ['--config.model.name=glyphnet', '--config.model.weights=embedded://glyphnet']
SHORT = ['--config.steps=30', '--config.eval_every=5', '--config.checkpoint_every=10', '--config.log_every=10']
QUIET = ['--config.image.flip=false', '--config.image.pad=2']


def photos(root, part='', first=0):
    """Digits as PNG files of their classes, some in sub-folders."""
    image, label, _ = embedded.digits()
    for digit, name in NAMES.items():
        rows = np.flatnonzero(label == digit)[first : first + PER_CLASS[digit]]
        for k, row in enumerate(rows):
            path = root / part / name / (f'deep/{k}.png' if k % 5 == 4 else f'{k}.PNG')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[row, :, :, 0]).resize((20, 24)).save(path, 'PNG')


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """The run of a messy folder of one level: (folder, what it said)."""
    here = tmp_path_factory.mktemp('home')
    photos(here / 'photos')
    (here / 'photos' / 'drei' / 'broken.jpg').write_bytes(b'\xff\xd8 nothing more')
    (here / 'photos' / 'drei' / 'notes.txt').write_text('not a picture')
    (here / 'photos' / 'drei' / '.hidden.png').write_bytes(b'')
    (here / 'photos' / 'empty').mkdir()
    (here / 'photos' / 'README.md').write_text('mine')
    ended = call(here, '--config=folder', '--config.target.dir=photos', '--workdir=run', *NETWORK, *SHORT, *QUIET)
    assert ended.returncode == 0, ended.stderr
    return here, ended.stdout


def results(run):
    return json.loads((run / 'results.json').read_text())


def test_scan_of_the_folder_is_printed_first(done):
    here, said = done
    found = [
        'photos: 93 images of 5 classes: 75 to learn from, 18 to test on, 0.2 of each class, held out',
        'left out, 1 image that cannot be read: drei/broken.jpg: its JPEG header is cut short or damaged',
        'left out, 1 file that is not an image (.txt 1); 1 hidden file; 1 file outside of the class folders',
    ]
    page = (here / 'run' / 'report.html').read_text()
    body = page[page.index('<main>') :]
    for sentence in found:
        assert sentence in said
        assert body.index(sentence.replace("'", '&#x27;')) < body.index('class="answer"')
    assert 'smile on photos' in page and '<script>alert' not in page and '&lt;script&gt;alert(1)&lt;' in page
    assert json.loads((here / 'run' / 'data.json').read_text())['unreadable'].keys() == {'drei/broken.jpg'}


def test_results_say_which_step_was_kept_and_how_the_classes_fare(done):
    here, said = done
    (seed,) = results(here / 'run')['seeds']
    val = [line for line in lines(here / 'run' / 'metrics.jsonl') if line['kind'] == 'val']
    assert [line['step'] for line in val] == [5, 10, 15, 20, 25, 30]
    most = max(line['accuracy'] for line in val)
    assert seed['step'] == max(line['step'] for line in val if line['accuracy'] == most)
    assert seed['val_accuracy'] == most
    (line,) = [x for x in lines(here / 'run' / 'metrics.jsonl') if (x['kind'], x['step']) == ('eval', seed['step'])]
    assert {name: seed[name] for name in ('accuracy', 'loss', 'mean_per_class')} == {
        name: line[name] for name in ('accuracy', 'loss', 'mean_per_class')
    }
    assert 'top5' not in seed  # of five classes
    about = json.loads((here / 'run' / 'model.json').read_text())
    assert (about['step'], about['steps'], about['classes']) == (seed['step'], 30, sorted(NAMES.values()))
    assert 'of the step with the best validation accuracy' in said
    whole = results(here / 'run')
    assert (whole['train_examples'], whole['val_examples'], whole['test_examples']) == (67, 8, 18)


def test_the_test_part_predicted_again_has_the_reported_accuracy(done):
    here, _ = done
    again = call(here, 'predict', '--workdir=run', '--test', '--json', module='mixjax')
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert answer['labelled'] == 18 and answer['accuracy'] == results(here / 'run')['seeds'][0]['accuracy']


def test_a_new_photograph_and_a_table_of_a_folder(done):
    here, _ = done
    path = here / 'photos' / 'null' / '0.PNG'
    one = call(here, 'predict', '--workdir=run', str(path), '--top=1', module='mixjax')
    assert one.returncode == 0 and one.stdout.count('%') == 1
    table = call(here, 'predict', '--workdir=run', 'photos', '--csv=out.csv', module='mixjax')
    assert table.returncode == 0, table.stderr
    with open(here / 'out.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 93 and {row['label'] for row in rows} == set(NAMES.values())


def test_the_second_command_trains_nothing_and_a_changed_folder_is_refused(done):
    here, _ = done
    words = ['--config=folder', '--config.target.dir=photos', '--workdir=run', *NETWORK, *SHORT, *QUIET]
    again = call(here, *words)
    assert again.returncode == 0 and 'nothing was trained' in again.stdout
    extra = here / 'photos' / 'null' / 'extra.png'
    shutil.copy(here / 'photos' / 'null' / '0.PNG', extra)
    try:
        longer = call(here, *[w.replace('=30', '=40') for w in words])
        assert longer.returncode == 2 and 'was begun with other inputs' in longer.stderr
        assert 'the images of the train part of the target data set have changed: photos' in longer.stderr
        tested = call(here, 'predict', '--workdir=run', '--test', module='mixjax')
        assert tested.returncode == 2 and 'was begun with other images' in tested.stderr
    finally:
        extra.unlink()


def test_parts_of_your_own_and_the_test_folder_predicted(tmp_path, monkeypatch, capsys):
    photos(tmp_path / 'p', 'train')
    photos(tmp_path / 'p', 'test', first=40)
    photos(tmp_path / 'p', 'valid', first=80)
    words = ['--config=folder', '--config.target.dir=p', '--workdir=run', '--config.method.name=finetune']
    words.append('--config.devices=1')
    monkeypatch.chdir(tmp_path)
    assert main([*words, *NETWORK, *SHORT, *QUIET]) == 0
    assert '93 to learn from, 93 to validate on, 93 to test on' in capsys.readouterr().out
    assert cli.run('predict', ['--workdir=run', '--json', 'p/test']) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer['accuracy'] == results(tmp_path / 'run')['seeds'][0]['accuracy']
    assert results(tmp_path / 'run')['val_examples'] == 93  # those of the folder, none of the train part


def test_changed_images_end_a_streamed_run(tmp_path, monkeypatch, capsys):
    """Those that were decoded and stored before, too; put back, the same command goes on."""
    photos(tmp_path / 'photos')
    files = sorted(path for path in (tmp_path / 'photos').rglob('*') if path.is_file())
    good = [(path.read_bytes(), path.stat()) for path in files]
    words = [
        '--config=folder', '--config.target.dir=photos', '--workdir=run', '--config.method.name=finetune', *NETWORK,
        *QUIET, '--config.devices=1', '--config.feed=stream', '--config.steps=80', '--config.log_every=1',
        '--config.eval_every=80', '--config.checkpoint_every=80',
    ]  # fmt: skip

    def change():
        for path, (data, facts) in zip(files, reversed(good), strict=True):
            path.write_bytes(data)
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    monkeypatch.chdir(tmp_path)
    with harm.meanwhile(harm.logged(tmp_path, 12), change):  # each of the 67 has been read once
        assert main(words) == 2
    said = capsys.readouterr().err
    assert 'has changed since it was checked: its bytes are others' in said and 'Traceback' not in said
    assert not (tmp_path / 'run' / 'results.json').exists()
    assert main(words) == 2
    assert 'the images of the train part of the target data set have changed' in capsys.readouterr().err
    for path, (data, _) in zip(files, good, strict=True):
        path.write_bytes(data)
    assert main(words) == 0


@pytest.mark.faults
@pytest.mark.slow
def test_killed_run_with_keep_best_ends_the_same(done, tmp_path):
    here, _ = done
    shutil.copytree(here / 'photos', tmp_path / 'photos')
    words = ['--config=folder', '--config.target.dir=photos', '--workdir=run', *NETWORK, *SHORT, *QUIET]
    kill_after(tmp_path, 0, 15, *words)
    assert call(tmp_path, *words).returncode == 0
    assert_same_run(here / 'run', tmp_path / 'run', range(1), 30)
