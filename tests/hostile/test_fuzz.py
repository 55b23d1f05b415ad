"""Wrong files: a short form of the campaign (`make fuzz`), and what the long one has found, kept."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from mixjax.config import method_registry
from mixjax.data.datasets import array_record
from mixjax.data.datasets.builders import archive
from mixjax.data.labelled import split_file
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.host import untrusted
from mixjax.models import preprocessing
from mixjax.report import html, words
from mixjax.rundir import files
from mixjax.train import prepare
from tests.hostile import fuzz
from tests.support import fake
from tests.support.common import call


def test_short_fuzz_campaign_finds_nothing(tmp_path):
    """The first few of each reader, always the same; `make fuzz` takes others each time."""
    done = call(tmp_path, '--minutes=1.2', '--count=25', '--start=1', module='tests.hostile.fuzz')
    assert done.returncode == 0, done.stdout + done.stderr
    made = [int(line.split(' inputs in')[0].split()[-1].replace(',', '')) for line in done.stdout.splitlines()[:-1]]
    assert len(made) == len(fuzz.READERS) + len(fuzz.OF_RUNS) and min(made) >= 20, done.stdout


FAULTY = """
import os, sys
import numpy as np
from pathlib import Path
from tests.support.common import call
from tests.hostile import fuzz
from tests.hostile.readers import Reader

def forever(_):
    while True:
        pass

fuzz.KEPT, fuzz.HANGS = Path('kept'), 0.3
readers = {
    'crash': lambda path: 1 / 0, 'hang': forever, 'outside': lambda path: (path.parent.parent / 'x').touch(),
    'memory': lambda _: np.empty(1 << 29), 'death': lambda _: os._exit(9),
}
for name, read in readers.items():
    fuzz.READERS[name] = Reader(lambda _: [b'12345678'], read)
    print(name, *fuzz.apart(name, 3.0, 2)[1])
"""


def test_fuzz_campaign_detects_planted_faults(tmp_path):
    """Readers with faults of every kind, all found."""
    (tmp_path / 'faulty.py').write_text(FAULTY)
    done = call(tmp_path, module='faulty')
    assert done.returncode == 0, done.stderr
    for word in ('ZeroDivisionError', 'it hangs', 'it wrote outside', 'MemoryError', 'its process died with 9'):
        assert word in done.stdout, (word, done.stdout)
    assert len(list((tmp_path / 'kept').iterdir())) >= 4


# --- arrays -----------------------------------------------------------------------------------------------------------


def npz(header: bytes, data: bytes = b'', how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', how) as archive_:
        head = header.ljust(118) + b'\n'
        archive_.writestr('a.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + data)
    return file.getvalue()


def test_inconsistent_array_headers_are_refused():
    good = npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", np.arange(3, dtype='<f4').tobytes())
    np.testing.assert_array_equal(untrusted.arrays(good)['a'], [0, 1, 2])
    assert untrusted.arrays(good)['a'].flags.writeable
    for header, data in (
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", b'1234'),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -1)}", b'0' * 12),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b'cos\nsystem\n(S"true"\ntR.'),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': __import__('os')}", b'0' * 12),
        (b'[' * 60, b''),
    ):
        with pytest.raises(ValueError):
            untrusted.arrays(npz(header, data))
    bomb = npz(b"{'descr': '|u1', 'fortran_order': False, 'shape': (300000000,)}", bytes(300_000_000))
    assert len(bomb) < 400_000
    with pytest.raises(ValueError, match='larger than'):
        untrusted.arrays(bomb, 1 << 28)
    with pytest.raises(ValueError, match='compressed in a way that numpy does not use'):
        untrusted.arrays(npz(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", b'123', zipfile.ZIP_LZMA))


@pytest.mark.parametrize('text', ['[' * 10**6, '{"a":' * 10**5, '1' * 10**4, b'\x00\xd8', b'\xff'])
def test_invalid_json_is_refused(text):
    with pytest.raises(ValueError):
        untrusted.parse(text)


# --- archives ---------------------------------------------------------------------------------------------------------


def tar(*members: tuple[tarfile.TarInfo, bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz' if packed else 'w') as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = '') -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


@pytest.mark.parametrize(
    ('member', 'told'),
    [
        (entry('../../x'), 'would be written outside'),
        (entry('/etc/x'), 'would be written outside'),
        (entry('a/../../x'), 'would be written outside'),
        (entry('x', kind=tarfile.SYMTYPE, link='/etc/passwd'), 'is a link or a device'),
        (entry('x', kind=tarfile.LNKTYPE, link='../x'), 'is a link or a device'),
        (entry('x', kind=tarfile.CHRTYPE), 'is a link or a device'),
        (entry('.'), 'no name that a file can have'),
    ],
)
def test_members_that_would_leave_their_folder(member, told, tmp_path):
    path = tmp_path / 'set.tar'
    path.write_bytes(tar((member, b'')))
    with pytest.raises(UserError, match=told):
        for _, read in archive.members(path):
            read()
    assert [item.name for item in tmp_path.iterdir()] == ['set.tar']


def test_archives_that_unpack_to_more_than_any_photograph(tmp_path):
    huge = entry('x.jpg')
    huge.size = 1 << 33
    blocks = huge.tobuf() + bytes(1 << 20)
    (tmp_path / 'member.tgz').write_bytes(gzip.compress(blocks))
    long = entry('long', kind=tarfile.GNUTYPE_LONGNAME)
    long.size = 1 << 33
    (tmp_path / 'name.tgz').write_bytes(gzip.compress(long.tobuf() + bytes(1 << 20)))
    with zipfile.ZipFile(tmp_path / 'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as made:
        made.writestr('x.jpg', bytes(archive.LARGEST + 1))
    for name in ('member.tgz', 'name.tgz', 'bomb.zip'):
        with pytest.raises(UserError, match='is refused|is damaged'):
            for _, read in archive.members(tmp_path / name):
                read()


# --- what the campaign found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        (('seeds', 0, 'accuracy'), float('nan')), (('accuracy', 'mean'), 10**400), (('accuracy', 'n'), 10**30),
        (('accuracy', 'std'), float('inf')), (('classes',), ['a', None]), (('steps',), 10**400),
    ],
)  # fmt: skip
def test_results_with_numbers_that_are_none(place, value, tmp_path):
    run = fake.make_run(tmp_path / 'run', 'mixup', [0.5, 0.6], side=4)
    data = json.loads((run / 'results.json').read_text())
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    (run / 'results.json').write_text(json.dumps(data))
    with pytest.raises(UserError, match='is damaged'):
        html.render([run])


def test_inconsistent_run_files_are_refused(tmp_path):
    run = fake.make_run(tmp_path / 'run', 'xmixup', [0.5, 0.6], pairs=True, side=4)
    good = json.loads((run / 'pairs.json').read_text())
    for key, value in (('similarity', ['x']), ('similarity', [[]]), ('sources', [1]), ('sources', [True, 'a'])):
        (run / 'pairs.json').write_text(json.dumps({**good, 'pairs': [{**good['pairs'][0], key: value}]}))
        with pytest.raises(UserError, match='pairs.json is damaged'):
            html.render([run])
    (run / 'pairs.json').write_text(json.dumps(good))
    (run / 'config.json').write_text(json.dumps({'method': 'x', 'steps': 400}))
    (run / 'metrics.jsonl').write_bytes(b'\xff\xfe\n{"seed": [], "step": 1, "kind": "train"}\n[]\n' + b'[' * 10**5)
    html.render([run])
    for devices in (3, ['cpu', 3], None, [{}]):
        fake.change(run, 'env.json', devices=devices, command=['a\n# b', 3])
        assert 'a?# b' in html.write(run).with_name('results.md').read_text()
    for text in ('1.5', '[]', '"x"', '{"steps": "x"}'):
        (run / 'config.json').write_text(text)
        with pytest.raises(UserError, match='damaged'):
            files.check_folder(run, None)


def test_labels_that_no_folder_can_have(tmp_path):
    both = fake.make_comparison(tmp_path / 'both', {'finetune': 0.5, 'mixup': 0.6}, seeds=2, side=4)
    text = (both / 'results.json').read_text()
    for name in ('a' * 300, '../x', '..', '\\ud800' * 100):
        (both / 'results.json').write_text(text.replace('"mixup": {', f'"{name}": {{'))
        with pytest.raises(UserError, match='cannot be the name of a sub-folder'):
            html.render([both])


def test_lines_of_a_log_whose_steps_are_none(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"seed": 0, "step": "x"}\n{"seed": [], "step": 1}\n[]\n{"seed": 0, "step": 3}\n{"step": 2}\n')
    files.rewind_log(path, [0], 5)
    assert path.read_text() == '{"seed": 0, "step": 3}\n'


def test_a_draw_that_is_not_whole(tmp_path):
    np.savez(tmp_path / 'prepared.npz', **{'draw/rows': np.arange(3)})
    with pytest.raises(UserError, match='is damaged, and with it the run'):
        prepare.load_prepared(tmp_path / 'prepared.npz')


@pytest.mark.parametrize(
    'change',
    [
        {'classes': True},
        {'classes': [[]]},
        {'labelled rows': {'0': 3}},
        {'labelled ids': {'0': [1]}},
        {'per class': []},
    ],
)
def test_splits_of_the_wrong_kind(change, tmp_path):
    path = tmp_path / 'splits.json'
    path.write_text(json.dumps({'target': 'digits', 'classes': ['a'], 'labelled rows': {'0': [1]}, **change}))
    with pytest.raises(UserError, match='config.target.splits: .* cannot be read'):
        split_file.read(str(path))
    with pytest.raises(UserError, match='cannot be read'):
        split_file.read('/dev/zero')


@pytest.mark.parametrize(
    'change', [{'name': None}, {'shardLengths': ['<x>']}, {'shardLengths': [-1]},
     {'shardLengths': [float('inf')]}, {'filepathTemplate': '../../{SPLIT}'},
               {'filepathTemplate': '{DATASET:>10000000000}/x'}],
)  # fmt: skip
def test_inconsistent_dataset_info_is_refused(change, tmp_path):
    facts = {'name': 'train', 'shardLengths': ['1'], **change}
    (tmp_path / 'dataset_info.json').write_text(json.dumps({'name': 'set', 'splits': [facts]}))
    with pytest.raises(UserError, match='dataset_info.json is damaged'):
        array_record.Records(tmp_path, 'train')


def test_a_jpeg_without_its_end_mark():
    """Its last pixel is what stands for missing data too, so it is decoded a second time."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((24, 17, 3), photo.GREY, np.uint8)).save(file, 'JPEG')
    whole = file.getvalue()
    assert whole.endswith(photo.END) and photo.decode(whole).shape == (24, 17, 3)
    for cut in (whole[:-2], whole[:-2].replace(photo.END, b'')):
        with contextlib.suppress(photo.Unreadable):
            assert photo.decode(cut).shape == (24, 17, 3)


def test_a_tiff_whose_first_page_lies_beyond_all_memory():
    for start in (b'II\x2b\0\x08\0\0\0', b'MM\0\x2b\0\x08\0\0'):
        with pytest.raises(photo.Unreadable, match='TIFF header'):
            photo.decode(start + b'\xff' * 8 + bytes(99))


def test_images_that_belong_to_weights():
    for said in (
        {'crop': 0},
        {'crop': 10**9},
        {'crop': True},
        {'std': [0, 1, 1]},
        {'mean': 'abc'},
        {'mean': [None]},
        [],
    ):
        with pytest.raises(ValueError):
            preprocessing.checked(said)


# --- names, and what may be run ---------------------------------------------------------------------------------------

NAMES = ('<script>alert(1)</script>', '../../x', '"><img src=x onerror=alert(1)>', 'a\x1b[2Jb\0', '&lt;b&gt;', '\u202e')


def test_names_of_classes_are_text_and_nothing_else(tmp_path):
    run = fake.make_run(tmp_path / 'run', 'xmixup', [0.5, 0.6], pairs=True, classes=NAMES, sources=NAMES, side=4)
    page = html.render([run])
    assert '<script' not in page and '<img src=x' not in page and '\x1b' not in page and '\0' not in page
    for name in NAMES[:3]:
        assert words.escape(name) in page
    assert html.write(run) == run / 'report.html' and [item.name for item in tmp_path.iterdir()] == ['run']


def test_files_cannot_name_modules_to_import(tmp_path, monkeypatch):
    (tmp_path / 'evil').mkdir()
    (tmp_path / 'evil' / '__init__.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    (tmp_path / 'evil' / 'method.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match='a file may not say what is run'):
        method_registry.load('evil.method', 'model.json')
    assert not (tmp_path / 'ran').exists()
