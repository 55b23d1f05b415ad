"""The command that prepares data sets: what it does, and what it says where it cannot."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixjax.commands import cli, prepare
from mixjax.commands.table import PREPARE
from mixjax.data.datasets import catalog, tfds_copy
from mixjax.errors import UserError
from tests.support import miniature
from tests.support.common import call, command, environment

FOREIGN = [name for name in catalog.names() if catalog.entry(name).tfds and not catalog.entry(name).ours]


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'data'


def by_hand(root: Path) -> Path:
    return root / 'downloads' / 'manual'


def words(name: str, root: Path, *more: str) -> list[str]:
    return [f'--dataset={name}', f'--data-dir={root}', '--allow-counts', *more]


def test_the_command(root, tmp_path):
    """As a person runs it, from another folder; the second time there is nothing to do."""
    miniature.publish('mit_indoor67', by_hand(root))
    done = call(tmp_path, 'prepare', *words('mit_indoor67', root), module='mixjax')
    assert done.returncode == 0, done.stderr
    folder = root / 'mit_indoor67' / '1.0.0'
    assert done.stdout == f'mit_indoor67: 7 training and 3 test images of 67 classes in {folder}\n'
    assert done.stderr == f'mit_indoor67: writing records to {folder}\n'
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = call(tmp_path, 'prepare', *words('mit_indoor67', root), module='mixjax')
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, '')
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    # Without --allow-counts the copy stays what it was taken for.
    assert catalog.load('mit_indoor67', 'train', data_dir=str(root)).labels.shape == (7,)


def test_our_builders_never_import_tensorflow(root):
    miniature.publish('tiny_imagenet', by_hand(root))
    script = (
        'import sys\nfrom mixjax.commands import cli\nassert cli.run("prepare", sys.argv[1:]) == 0\n'
        'assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', script, *words('tiny_imagenet', root)], env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_help(capsys):
    assert cli.run('prepare', ['--help']) == 0
    text = capsys.readouterr().out
    for flag in PREPARE.flags:
        assert f'  --{flag.name}' in text
    assert 'Exit codes' in text


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        ([], '--dataset is missing (see mixjax prepare --help)'),
        (['--dataset=cub'], "unknown data set 'cub'; did you mean 'cub200'?"),
        (['--dataset=glyphs'], 'glyphs comes with mixjax or with a package it needs: there is nothing to prepare'),
        (['--dataset=cub200', '--data_dri=x'], "unknown flag --data_dri; did you mean 'data-dir'?"),
        (['--dataset=cub200', '--config.seed=1'], 'unknown flag --config.seed'),
        (['cub200'], "unexpected 'cub200'"),
    ],
)
def test_wrong_words(given, sentence, capsys):
    assert cli.run('prepare', given) == 2
    error = capsys.readouterr().err
    assert error.startswith('mixjax: ') and sentence in error and error.count('\n') == 1


@pytest.mark.parametrize('name', FOREIGN)
def test_without_tensorflow_one_sentence_says_what_to_install(name, root, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda module: None if module == 'tensorflow' else find(module))
    assert cli.run('prepare', [f'--dataset={name}', f'--data-dir={root}']) == 2
    assert capsys.readouterr().err == (
        f'mixjax: {name} cannot be prepared without TensorFlow, which training does not need: '
        f"pip install 'mixjax[prepare]', then mixjax prepare --dataset={name} again\n"
    )


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert cli.run('prepare', ['--dataset=cub200', f'--data-dir={tmp_path / "file"}']) == 2
    assert 'cannot be written to (Not a directory); choose another --data-dir' in capsys.readouterr().err


def test_a_copy_of_another_kind_is_left_alone(root):
    folder = catalog.folder('cub200', str(root))
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"fileFormat": "tfrecord", "splits": []}')
    with pytest.raises(UserError, match='its files are tfrecord, not array_record; move that folder away'):
        prepare.prepare('cub200', data_dir=str(root))
    assert list(folder.iterdir()) == [folder / 'dataset_info.json']


def test_two_at_once_are_refused(root):
    miniature.publish('tiny_imagenet', by_hand(root))
    folder = catalog.folder('tiny_imagenet', str(root))
    folder.parent.mkdir(parents=True)
    with open(folder.parent / '.mixjax_lock', 'w') as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(UserError, match=f'another process is preparing {re.escape(str(folder))}; wait'):
            prepare.prepare('tiny_imagenet', data_dir=str(root), allow_counts=True)
    prepare.prepare('tiny_imagenet', data_dir=str(root), allow_counts=True)


def test_images_that_cannot_be_read(root, capsys):
    """They stop the command with a list; with --skip-corrupt the rest is used, and the list is kept."""
    files, lists, _ = miniature.indoor()
    names = [name for name in files if name.endswith(('Room 2.jpg', 'Room 9.jpg'))]
    files[names[0]] = files[names[0]][:-300]
    files[names[1]] = b'<html>404'
    by_hand(root).mkdir(parents=True)
    miniature.tar(by_hand(root) / 'indoorCVPR_09.tar', files)
    miniature.unpacked(by_hand(root), lists)
    assert cli.run('prepare', words('mit_indoor67', root)) == 2
    error = capsys.readouterr().err
    assert '2 of the 10 images in' in error and '--skip-corrupt' in error
    assert 'winecellar/Room 2.jpg: ' in error and 'airport_inside/Room 9.jpg: it is not a picture' in error
    assert cli.run('prepare', words('mit_indoor67', root, '--skip-corrupt')) == 0
    folder = catalog.folder('mit_indoor67', str(root))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f'mit_indoor67: 6 training and 2 test images of 67 classes in {folder}',
        f'2 that cannot be read are left out: {folder / tfds_copy.SKIPPED} lists them',
    ]
    listed = json.loads((folder / tfds_copy.SKIPPED).read_text())
    assert [one['name'] for one in listed['train'] + listed['test']] == [
        'winecellar/Room 2.jpg',
        'airport_inside/Room 9.jpg',
    ]


# Killed.


def many(root: Path, count: int) -> None:
    """Tiny ImageNet with so many training images that it takes a while."""
    kind = catalog.class_names('tiny_imagenet')[0].split(' ')[0]
    image = miniature.picture(1, size=(64, 64))
    files = {f'tiny-imagenet-200/train/{kind}/images/{kind}_{k}.JPEG': image for k in range(count)}
    files['tiny-imagenet-200/val/images/val_0.JPEG'] = image
    files['tiny-imagenet-200/val/val_annotations.txt'] = f'val_0.JPEG\t{kind}\t0\t0\t1\t1\n'.encode()
    by_hand(root).mkdir(parents=True)
    miniature.zipped(by_hand(root) / 'tiny-imagenet-200.zip', files)


def kill_when(root: Path, ready) -> None:
    process = subprocess.Popen(
        command('prepare', *words('tiny_imagenet', root), module='mixjax'), env=environment(), cwd=root.parent,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and not ready() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL, 'the command ended before it could be killed'


def test_killed_while_it_writes(root, tmp_path):
    many(root, 3000)
    folder = catalog.folder('tiny_imagenet', str(root))
    half = folder.parent.glob
    kill_when(root, lambda: folder.parent.exists() and any(half('incomplete.*')))
    assert not folder.exists() and list(half('incomplete.*'))
    assert 'no such copy' in str(catalog.missing('tiny_imagenet', str(root)))
    assert cli.run('prepare', words('tiny_imagenet', root)) == 0
    assert not list(half('incomplete.*'))
    assert len(catalog.load('tiny_imagenet', 'train', data_dir=str(root)).labels) == 3000


def test_killed_while_it_checks(root):
    """The records are whole, and nobody has looked at all images: the next command does."""
    many(root, 3000)
    folder = catalog.folder('tiny_imagenet', str(root))
    kill_when(root, folder.exists)
    assert not (folder / tfds_copy.INDEX).exists()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if 'array_record' in path.name}
    assert cli.run('prepare', words('tiny_imagenet', root)) == 0
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if 'array_record' in path.name}
    assert before == after and (folder / tfds_copy.INDEX).exists()


# Sets of TensorFlow Datasets.


class Stub:
    """A builder of TensorFlow Datasets, with its true URLs, that does something else."""

    def __init__(self, name: str, root: Path, act) -> None:
        import tensorflow_datasets as tfds

        facts = catalog.entry(name)
        self.url_infos = tfds.builder_cls(facts.tfds).url_infos
        self.data_dir, self.act = str(root / facts.tfds / facts.version), act

    def download_and_prepare(self, *, download_dir, download_config) -> None:
        self.asked = (download_dir, download_config)
        self.act()


@pytest.fixture
def stub(monkeypatch, root):
    import tensorflow_datasets as tfds

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda module: find('json' if module == 'tensorflow' else module))
    made = []

    def install(name: str, act) -> list[Stub]:
        def builder(spec: str, **options) -> Stub:
            facts = catalog.entry(name)
            assert spec == f'{facts.tfds}:{facts.version}'
            assert options == {'data_dir': str(root), 'file_format': 'array_record'}
            made.append(Stub(name, root, act))
            return made[-1]

        monkeypatch.setattr(tfds, 'builder', builder)
        return made

    return install


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize('name', FOREIGN)
def test_what_tensorflow_datasets_wrote_is_checked(name, root, stub, tmp_path):
    facts = catalog.entry(name)
    image = miniature.picture(1, 'PNG')

    def act() -> None:
        examples = [miniature.record({'image': image, 'label': k}) for k in range(3)]
        miniature.copy(name, root, {part: [examples] for part in facts.splits})

    made = stub(name, act)
    with pytest.raises(UserError, match=f'has 3 examples, and the published one has {facts.train:,}.*--allow-counts'):
        prepare.prepare(name, data_dir=str(root))
    told = prepare.prepare(name, data_dir=str(root), archives=str(tmp_path), allow_counts=True)
    assert told.startswith(f'{name}: 3 training and 3 test images of {facts.classes} classes in ')
    assert len(made) == 1
    download_dir, config = made[0].asked
    assert download_dir == str(root / 'downloads') and config.manual_dir == str(root / 'downloads' / 'manual')


@pytest.mark.parametrize(
    ('name', 'file', 'url'),
    [
        ('food101', 'food-101.tar.gz', 'http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz'),
        ('flowers102', '102flowers.tgz', 'https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz'),
        ('cifar10', 'cifar-10-binary.tar.gz', 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'),
        ('svhn', 'train_32x32.mat', 'http://ufldl.stanford.edu/housenumbers/train_32x32.mat'),
    ],
)
def test_failed_download_names_files_and_folder(name, file, url, root, stub, capsys):
    from tensorflow_datasets.core.download.util import DownloadError

    stub(name, raising(DownloadError(f'Failed to get url {url}. HTTP code: 404.')))
    assert cli.run('prepare', [f'--dataset={name}', f'--data-dir={root}']) == 2
    error = capsys.readouterr().err
    assert f'the files of {name} cannot be fetched (DownloadError: Failed to get url {url}. HTTP code: 404.)' in error
    assert f'put them into {by_hand(root)} by hand:' in error and f'\n  {file} from {url}' in error


def test_no_network_ends_in_one_sentence(root, stub, capsys):
    import requests

    stub('mnist', raising(requests.exceptions.ConnectionError('no route to host\nand more')))
    assert cli.run('prepare', ['--dataset=mnist', f'--data-dir={root}']) == 2
    assert '(ConnectionError: no route to host); put them into' in capsys.readouterr().err


def test_what_imagenet_lacks_without_its_files(root, stub, capsys):
    stub('imagenet2012', raising(AssertionError('Manual directory does not exist')))
    assert cli.run('prepare', ['--dataset=imagenet2012', f'--data-dir={root}']) == 2
    error = capsys.readouterr().err
    assert 'ILSVRC2012_img_train.tar' in error and str(by_hand(root)) in error and 'DIR' not in error


def test_other_failures_end_in_one_sentence(root, stub, capsys):
    stub('cub200', raising(OSError(28, 'No space left on device')))
    assert cli.run('prepare', ['--dataset=cub200', f'--data-dir={root}']) == 2
    error = capsys.readouterr().err
    assert 'cub200 could not be prepared (OSError: [Errno 28] No space left on device); nothing was kept' in error
    assert error.count('\n') == 1 + error.count('writing records')


def test_interrupted(root, stub, capsys):
    stub('cub200', raising(KeyboardInterrupt()))
    assert cli.run('prepare', ['--dataset=cub200', f'--data-dir={root}']) == 130
    assert 'the same command goes on' in capsys.readouterr().err
