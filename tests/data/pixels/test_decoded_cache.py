"""Decoded photographs on disk: each is decoded once, and what is read is what was decoded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mixjax.data.dataset import Dataset
from mixjax.data.datasets import catalog
from mixjax.data.pixels import decoded_cache, photo, rowfile
from mixjax.errors import UserError
from tests.support import miniature, prepared

RULE = photo.Rule(side=64)
COUNT = 200
ROOT = Path(__file__).parents[3]


class Reader:
    """Makes up images and counts how often each was asked for."""

    def __init__(self, rule=RULE, bad=()):
        self.rule, self.bad, self.asked = rule, set(bad), Counter()
        self.stamp = 'records of today'

    def __call__(self, rows):
        self.asked.update(map(int, rows))
        if self.bad & set(map(int, rows)):
            raise photo.Unreadable('it is cut short')
        return pixels(rows)


def pixels(rows):
    return np.stack([np.random.default_rng(int(row)).integers(0, 256, (64, 64, 3), np.uint8) for row in rows])


def opened(folder, reader=None, say=None, limit=decoded_cache.LIMIT, **changes):
    """(data set, its reader before it was stored, the stored one)."""
    reader = reader or Reader()
    names = [f'photo {k}.jpg' for k in range(COUNT)]
    data = Dataset('dogs', ('a', 'b'), np.zeros(COUNT, np.int32), reader, names)._replace(**changes)
    made = decoded_cache.stored(data, 'train', folder, say, limit)
    assert made.labels is data.labels and made.ids is data.ids
    return made, reader


def files(folder):
    return {path.suffix: path for path in folder.iterdir()}


def test_each_image_is_decoded_once(tmp_path):
    data, reader = opened(tmp_path)
    rows = np.array([7, 3, 7, 199, -1, 0])
    np.testing.assert_array_equal(data.read(rows), pixels(rows % COUNT))
    assert set(reader.asked) == {0, 3, 7, 199}
    before = dict(reader.asked)
    np.testing.assert_array_equal(data.read([3, 0]), pixels([3, 0]))
    again, unused = opened(tmp_path)  # another process, later
    np.testing.assert_array_equal(again.read(rows), pixels(rows % COUNT))
    assert dict(reader.asked) == before and not unused.asked
    np.testing.assert_array_equal(again.read([3, 4]), pixels([3, 4]))
    assert set(unused.asked) == {4}
    assert again.read(np.array([], int)).shape == (0, 64, 64, 3)
    with pytest.raises(IndexError):
        again.read([COUNT])


def test_the_files_hold_what_is_documented_and_are_sparse(tmp_path):
    data, _ = opened(tmp_path)
    data.read([150])
    found = files(tmp_path)
    assert set(found) == {'.pixels', '.sums'} and found['.pixels'].name.startswith('dogs-train-64-short-')
    images = np.memmap(found['.pixels'], np.uint8, 'r', shape=(COUNT, 64, 64, 3))
    np.testing.assert_array_equal(images[150], pixels([150])[0])
    sums = np.fromfile(found['.sums'], np.uint32)
    assert sums[150] and np.flatnonzero(sums).tolist() == [150] and len(sums) == COUNT
    assert os.stat(found['.pixels']).st_blocks * 512 < images.nbytes / 2


def test_cache_name_has_everything_pixels_depend_on(tmp_path):
    opened(tmp_path)[0].read([0])
    for reader, changes in (
        (Reader(RULE._replace(fit='squash')), {}),
        (Reader(RULE._replace(interpolation='bicubic')), {}),
        (Reader(RULE._replace(upright=True)), {}),
        (Reader(), {'name': '../cats / dogs'}),
        (Reader(), {'labels': np.zeros(COUNT + 1, np.int32)}),
    ):
        data, reader = opened(tmp_path, reader, **changes)
        data.read([0])
        assert reader.asked[0]
    other = Reader()
    other.stamp = 'records of tomorrow'
    opened(tmp_path, other)[0].read([0])
    assert other.asked[0]
    stamp = decoded_cache.stamp_of(opened(tmp_path, other)[0].read)
    assert stamp == decoded_cache.stamp_of(other) == 'records of tomorrow'
    part = Reader()
    decoded_cache.stored(opened(tmp_path, part)[0]._replace(read=part), 'test', tmp_path).read([0])
    assert part.asked[0]
    assert len(list(tmp_path.glob('*.pixels'))) == 8 and not list(tmp_path.parent.glob('*.pixels'))


def test_threads_share_it(tmp_path):
    data, _ = opened(tmp_path)
    orders = [np.random.default_rng(k).permutation(COUNT)[:90] for k in range(12)]
    with ThreadPoolExecutor(12) as pool:
        for rows, found in zip(orders, pool.map(data.read, orders), strict=True):
            np.testing.assert_array_equal(found, pixels(rows))
    np.testing.assert_array_equal(opened(tmp_path, Reader(bad=range(COUNT)))[0].read(orders[0]), pixels(orders[0]))


FILL = f"""
import sys
from pathlib import Path
import numpy as np
from {__name__} import COUNT, opened, pixels
data, reader = opened(Path(sys.argv[1]))
print('ready', flush=True)
sys.stdin.readline()
for row in range(COUNT):
    assert (data.read([row]) == pixels([row])).all(), row
print(len(reader.asked), flush=True)
"""


def test_two_processes_fill_it_and_one_is_killed(tmp_path):
    def start():
        return subprocess.Popen(
            [sys.executable, '-c', FILL, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )  # fmt: skip

    opened(tmp_path)[0].read([COUNT - 1])  # the files are there
    with start() as one, start() as two:
        assert one.stdout.readline() == two.stdout.readline() == 'ready\n'
        for process in (one, two):
            process.stdin.write('go\n')
            process.stdin.flush()
        while not np.fromfile(files(tmp_path)['.sums'], np.uint32)[:30].all():  # it is in the middle
            assert one.poll() is None or two.poll() is None
        one.kill()
        assert two.communicate()[0].strip().isdigit() and two.returncode == 0
        one.communicate()
    data, reader = opened(tmp_path)
    np.testing.assert_array_equal(data.read(range(COUNT)), pixels(range(COUNT)))
    assert not reader.asked


@pytest.mark.parametrize('harm', ['a bit', 'cut short', 'its sum'])
def test_a_damaged_row_is_decoded_again_and_said_once(harm, tmp_path):
    opened(tmp_path)[0].read(range(20))
    path = files(tmp_path)['.pixels']
    if harm == 'cut short':
        os.truncate(path, 64 * 64 * 3 * 9 + 5)
    else:
        path = path if harm == 'a bit' else files(tmp_path)['.sums']
        content = bytearray(path.read_bytes())
        for row in (9, 12):
            content[(64 * 64 * 3 if harm == 'a bit' else 4) * row] ^= 4
        path.write_bytes(content)
    said = []
    data, reader = opened(tmp_path, say=said.append)
    for _ in range(2):
        np.testing.assert_array_equal(data.read(range(20)), pixels(range(20)))
    assert set(reader.asked) == (set(range(9, 20)) if harm == 'cut short' else {9, 12})
    assert len(said) == 1 and 'was damaged' in said[0]
    repaired, unused = opened(tmp_path)
    np.testing.assert_array_equal(repaired.read(range(20)), pixels(range(20)))
    assert not unused.asked


def test_a_row_is_there_only_when_all_of_it_was_written(tmp_path, monkeypatch):
    data, _ = opened(tmp_path)
    data.read([0])
    real = os.pwrite

    def dying(file, content, place):
        if len(content) == 4:
            raise KeyboardInterrupt
        return real(file, content[:1000], place)  # a short write is gone on with

    with monkeypatch.context() as patched:
        patched.setattr(rowfile.os, 'pwrite', dying)
        with pytest.raises(KeyboardInterrupt):
            data.read([1])
    again, reader = opened(tmp_path)
    np.testing.assert_array_equal(again.read([0, 1]), pixels([0, 1]))
    assert set(reader.asked) == {1}


def test_a_sum_of_zero_is_not_a_missing_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rowfile.zlib, 'crc32', lambda data: 0)
    opened(tmp_path)[0].read([5])
    data, reader = opened(tmp_path)
    np.testing.assert_array_equal(data.read([5]), pixels([5]))
    assert not reader.asked


# --- disks that cannot be written to ----------------------------------------------------------------------------------


def test_without_a_folder_images_are_decoded_each_time(tmp_path):
    (tmp_path / 'file').write_text('no folder')
    said = []
    data, reader = opened(tmp_path / 'file' / 'images', say=said.append)
    for _ in range(2):
        np.testing.assert_array_equal(data.read(range(40)), pixels(range(40)))
        decoded_cache.ensure(data.read, range(40))
    assert reader.asked[0] == 2
    assert len(said) == 1 and 'cannot be kept' in said[0] and 'config.cache_dir' in said[0]


def test_what_is_in_a_folder_that_is_read_only_is_used(tmp_path, monkeypatch):
    opened(tmp_path)[0].read([1, 2])
    real = os.open

    def read_only(path, flags, *rest):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, 'Read-only file system')
        return real(path, flags, *rest)

    monkeypatch.setattr(rowfile.os, 'open', read_only)
    said = []
    data, reader = opened(tmp_path, say=said.append)
    np.testing.assert_array_equal(data.read([1, 2]), pixels([1, 2]))
    assert not reader.asked and not said
    np.testing.assert_array_equal(data.read([2, 3, 3]), pixels([2, 3, 3]))
    assert set(reader.asked) == {3} and len(said) == 1 and 'Read-only' in said[0]


def test_full_disk_stops_caching_but_not_the_run(tmp_path, monkeypatch):
    real, left = os.pwrite, [10]

    def full(file, content, place):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(file, content, place)

    monkeypatch.setattr(rowfile.os, 'pwrite', full)
    said = []
    data, reader = opened(tmp_path, say=said.append)
    for _ in range(2):
        np.testing.assert_array_equal(data.read(range(60)), pixels(range(60)))
    assert len(said) == 1 and 'No space left' in said[0]
    # Two writes each, of which a thread may have done the first one only.
    assert 5 - (os.cpu_count() or 1) < sum(count == 1 for count in reader.asked.values()) <= 5


Usage = namedtuple('Usage', 'total used free')


def test_cache_leaves_reserved_disk_space(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_cache.shutil, 'disk_usage', lambda path: Usage(0, 0, rowfile.RESERVE - 1))
    said = []
    data, _ = opened(tmp_path, say=said.append)
    np.testing.assert_array_equal(data.read([0]), pixels([0]))
    assert len(said) == 1 and os.strerror(errno.ENOSPC) in said[0]
    assert not np.fromfile(files(tmp_path)['.sums'], np.uint32).any()


# --- a limit for what is stored ---------------------------------------------------------------------------------------

ROW = 64 * 64 * 3


def taken(folder):
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def there(folder):
    """The rows that are stored."""
    return np.flatnonzero(np.fromfile(files(folder)['.sums'], np.uint32))


@pytest.mark.parametrize('ahead', [False, True])
def test_what_is_stored_has_a_limit(ahead, tmp_path):
    limit, said = 40 * ROW, []
    data, reader = opened(tmp_path, say=said.append, limit=limit)
    if ahead:
        decoded_cache.ensure(data.read, range(COUNT))
        assert said[1].startswith('decoding 40 images of dogs, once, into ')
        assert len(reader.asked) == 40 and 38 <= len(there(tmp_path)) <= 40  # the sums take room too
    for _ in range(2):
        np.testing.assert_array_equal(data.read(range(COUNT)), pixels(range(COUNT)))
    assert 30 < len(there(tmp_path)) <= 40 and taken(tmp_path) <= limit
    (line,) = [line for line in said if 'config.cache_limit' in line]
    assert '(492 kB)' in line and 'decoded anew each time' in line
    assert all(reader.asked[row] == 1 for row in there(tmp_path))
    again, reader = opened(tmp_path, limit=limit)
    again.read(range(COUNT))
    assert set(reader.asked) == set(range(COUNT)) - set(there(tmp_path)) and taken(tmp_path) <= limit


def test_the_limit_is_of_all_files_in_the_folder(tmp_path):
    opened(tmp_path, limit=40 * ROW)[0].read(range(30))
    (tmp_path / 'other').mkdir()
    for data in (opened(tmp_path, limit=40 * ROW, name='cats')[0], opened(tmp_path / 'other', limit=40 * ROW)[0]):
        data.read(range(COUNT))
    sums = sorted(int((np.fromfile(path, np.uint32) > 0).sum()) for path in tmp_path.glob('*.sums'))
    assert sums[1] == 30 and sums[0] < 10 and 30 < len(there(tmp_path / 'other')) <= 40


def test_a_limit_up_to_1_is_a_share_of_the_room(tmp_path, monkeypatch):
    """Of what is free and what the stored images take, so that storing some of them does not move it."""
    whole = rowfile.RESERVE + 200 * ROW  # what there is for everybody
    monkeypatch.setattr(decoded_cache.shutil, 'disk_usage', lambda path: Usage(0, 0, whole - taken(tmp_path)))
    data, _ = opened(tmp_path, limit=100 * ROW / whole)
    data.read(range(COUNT))
    assert 80 < len(there(tmp_path)) <= 100
    none, reader = opened(tmp_path, limit=0, name='cats')
    none.read(range(20))
    decoded_cache.ensure(none.read, range(20))
    assert set(reader.asked.values()) == {1}


def test_threads_together_keep_to_the_limit(tmp_path):
    data, _ = opened(tmp_path, limit=40 * ROW)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: data.read(range(k, COUNT, 8)), range(8)))
    assert taken(tmp_path) <= 40 * ROW and len(there(tmp_path)) > 30


def test_a_single_pass_uses_what_is_stored_and_stores_nothing(tmp_path):
    said = []
    data, reader = opened(tmp_path, say=said.append)
    data.read(range(10))
    before = taken(tmp_path)
    part = decoded_cache.Subset(data.read, np.arange(COUNT))
    for read in (decoded_cache.passing(data.read), decoded_cache.passing(part)):
        decoded_cache.ensure(read, np.arange(COUNT))
        np.testing.assert_array_equal(read(np.arange(COUNT)), pixels(range(COUNT)))
    assert set(there(tmp_path)) == set(range(10)) and taken(tmp_path) == before
    assert [reader.asked[row] for row in (0, 9, 10, COUNT - 1)] == [1, 1, 2, 2]
    assert said == ['decoding 190 images of dogs for one pass over them; none is kept']
    data.read([100])  # the reader itself goes on storing
    assert 100 in there(tmp_path)
    assert decoded_cache.passing(pixels) is pixels


def test_what_a_streamed_run_may_store_is_told_before(tmp_path):
    said = []
    data, reader = opened(tmp_path, say=said.append)
    data.read([0])
    decoded_cache.announce(decoded_cache.Subset(data.read, np.arange(50)), np.arange(40))
    assert said[0].startswith(f'39 images of dogs are decoded when they are needed, and kept in {tmp_path} (479 kB; ')
    assert set(reader.asked) == {0}


# --- decoding ahead ---------------------------------------------------------------------------------------------------


def test_ensure_says_what_it_will_do_and_goes_on_where_it_was_stopped(tmp_path, capsys):
    said = []
    data, _ = opened(tmp_path, Reader(bad=[100]), said.append)
    with pytest.raises(UserError, match='dogs: photo 100.jpg: it is cut short'):
        decoded_cache.ensure(data.read, np.arange(150).reshape(50, 3))
    assert len(said) == 1 and said[0].startswith('decoding 150 images of dogs, once, into ') and '(2 MB; ' in said[0]
    there = np.flatnonzero(np.fromfile(files(tmp_path)['.sums'], np.uint32))
    assert 100 not in there and len(there) > 0
    again, reader = opened(tmp_path, say=said.append)
    decoded_cache.ensure(again.read, range(150))
    assert set(reader.asked) == set(range(150)) - set(there)
    assert said[1].startswith(f'decoding {150 - len(there)} images')
    decoded_cache.ensure(again.read, range(150))
    assert len(said) == 2  # nothing to do, nothing to say
    np.testing.assert_array_equal(again.read(range(150)), pixels(range(150)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('mixjax')]


def test_ensure_uses_all_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_cache.os, 'cpu_count', lambda: 3)
    together = threading.Barrier(3, timeout=30)  # passed when three decode at once

    class Waiting(Reader):
        def __call__(self, rows):
            if 0 in rows or decoded_cache.CHUNK in rows or 2 * decoded_cache.CHUNK in rows:
                together.wait()
            return super().__call__(rows)

    data, _ = opened(tmp_path, Waiting())
    decoded_cache.ensure(data.read, range(3 * decoded_cache.CHUNK))
    np.testing.assert_array_equal(data.read([0, 40]), pixels([0, 40]))


def test_ensure_needs_room(tmp_path, monkeypatch):
    data, reader = opened(tmp_path)
    free = rowfile.RESERVE + 10 * 64 * 64 * 3
    monkeypatch.setattr(decoded_cache.shutil, 'disk_usage', lambda path: Usage(0, 0, free))
    with pytest.raises(
        UserError, match=r'11 images of dogs take 135 kB.*1\.1 GB free.*config\.cache_dir.*config\.store'
    ):
        decoded_cache.ensure(data.read, range(11))
    decoded_cache.ensure(data.read, range(11), must=False)
    assert not reader.asked
    decoded_cache.ensure(data.read, range(10))
    assert set(reader.asked) == set(range(10))


def test_a_subset_reads_and_decodes_ahead_its_rows_only(tmp_path):
    data, reader = opened(tmp_path)
    inner = decoded_cache.Subset(data.read, np.array([9, 8, 7, 6, 5, 4]))
    some = decoded_cache.Subset(inner, np.array([[0, 1], [4, 4]]))
    decoded_cache.ensure(some, 1)
    assert set(reader.asked) == {5}
    np.testing.assert_array_equal(some(...), pixels([9, 8, 5, 5]).reshape(2, 2, 64, 64, 3))
    np.testing.assert_array_equal(some((1, 0)), pixels([5])[0])


# --- real data sets ---------------------------------------------------------------------------------------------------


def test_a_damaged_photograph_names_its_record_and_is_never_kept(tmp_path):
    images = [miniature.picture(k, size=(40, 50)) for k in range(4)]
    images[2] = images[2][:300]
    label = iter(range(4))
    records = [
        miniature.record({'id': f'{k}.jpg'.encode(), 'image': x, 'label': next(label)}) for k, x in enumerate(images)
    ]
    folder = miniature.copy('mit_indoor67', tmp_path, {'train': [records], 'test': [records[:1]]})
    prepared.index('mit_indoor67', folder)
    data = catalog.load('mit_indoor67', 'train', data_dir=str(tmp_path), rule=RULE)
    kept = decoded_cache.stored(data, 'train', tmp_path / 'images')
    np.testing.assert_array_equal(kept.read([0, 1, 3]), data.read([0, 1, 3]))
    for _ in range(2):
        with pytest.raises(UserError, match=r'2\.jpg .*record 2'):
            kept.read([0, 2])
    sums = np.fromfile(files(tmp_path / 'images')['.sums'], np.uint32)
    assert sums.astype(bool).tolist() == [True, True, False, True]
    # Other records under the same name are other images.
    other = [miniature.record({'id': b'x.jpg', 'image': miniature.picture(70 + k), 'label': k}) for k in range(4)]
    folder = miniature.copy('mit_indoor67', tmp_path / 'new', {'train': [other], 'test': [other[:1]]})
    prepared.index('mit_indoor67', folder)
    new = catalog.load('mit_indoor67', 'train', data_dir=str(tmp_path / 'new'), rule=RULE)
    found = decoded_cache.stored(new, 'train', tmp_path / 'images').read([0, 1])
    np.testing.assert_array_equal(found, new.read([0, 1]))
    assert (found != data.read([0, 1])).any()


@pytest.mark.parametrize('name', ['glyphs', 'synthetic'])
def test_embedded_and_made_up_images_are_not_kept_and_follow_the_rule(name, tmp_path):
    data = catalog.load(name, 'train', rule=photo.Rule(side=224, channels=1))
    kept = decoded_cache.stored(data, 'train', tmp_path)
    assert kept is data and kept.read([0, 5]).shape == (2, 224, 224, 1)
    small = catalog.load(name, 'train').read([5])[0]
    np.testing.assert_array_equal(kept.read([5])[0], photo.fit(small, photo.Rule(side=224, channels=1)))
    decoded_cache.ensure(kept.read, [0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('count', 'text'), [(999, '1 kB'), (48_000, '48 kB'), (2_400_000, '2 MB'), (39_321_600_000, '39.3 GB')]
)
def test_bytes_are_formatted_with_units(count, text):
    assert rowfile.size(count) == text
