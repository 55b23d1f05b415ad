"""Reading files that may be anything: only regular ones are opened, and only as much as was asked for is read."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mixjax.host import untrusted


def special(kind: str, folder: Path) -> Path:
    """A path that leads to something which is not a regular file."""
    path = folder / 'x.json'
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'link to a fifo':
        os.mkfifo(folder / 'other')
        path.symlink_to('other')
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize('kind', ['fifo', 'link to a fifo', 'socket', '/dev/zero', '/dev/random', '/dev/tty'])
def test_only_regular_files_are_opened(kind, tmp_path):
    path, began = special(kind, tmp_path), time.monotonic()
    for read in (untrusted.open_regular, untrusted.read_regular, untrusted.arrays):
        with pytest.raises(untrusted.NotRegularFile, match='it is a (FIFO|socket|device) and not a regular file'):
            read(path)
    assert time.monotonic() - began < 1


def test_file_replaced_by_a_fifo_before_opening(tmp_path, monkeypatch):
    path = tmp_path / 'x'
    os.mkfifo(path)
    looked = os.stat(__file__)
    monkeypatch.setattr(os, 'stat', lambda *_, **__: looked)
    with pytest.raises(untrusted.NotRegularFile, match='a FIFO'):
        untrusted.open_regular(path)


def test_folders_missing_files_and_invalid_names_are_refused(tmp_path):
    (tmp_path / 'self').symlink_to('self')
    for name, error in {'.': IsADirectoryError, 'none': FileNotFoundError, 'self': OSError, 'a\0b': OSError}.items():
        with pytest.raises(error):
            untrusted.read_regular(os.path.join(tmp_path, name))
    with pytest.raises(OSError):
        untrusted.read_regular(f'{tmp_path}/\ud800')


def test_the_size_is_bounded(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'12345')
    assert untrusted.read_regular(path) == untrusted.read_regular(path, 5) == b'12345'
    (tmp_path / 'link').symlink_to('x')
    assert untrusted.read_regular(tmp_path / 'link') == b'12345'
    with pytest.raises(ValueError, match='larger than 4 bytes'):
        untrusted.read_regular(path, 4)
    with path.open('wb') as file:
        file.truncate(1 << 40)
    began = time.monotonic()
    with pytest.raises(ValueError, match='larger than 1,073,741,824 bytes'):
        untrusted.read_regular(path)
    assert time.monotonic() - began < 1


def test_a_file_without_a_size_is_read_to_its_end_and_not_beyond_the_bound():
    whole = Path('/proc/cpuinfo').read_bytes()
    assert os.stat('/proc/cpuinfo').st_size == 0 < len(whole)
    assert len(untrusted.read_regular('/proc/cpuinfo')) > len(whole) // 2
    with pytest.raises(ValueError, match='larger than 100 bytes'):
        untrusted.read_regular('/proc/cpuinfo', 100)


def test_a_file_that_grows_while_it_is_read_stays_within_the_bound(tmp_path):
    path, done = tmp_path / 'x', threading.Event()
    path.write_bytes(b'')

    def grow() -> None:
        with path.open('ab', buffering=0) as file:
            while not done.is_set() and file.tell() < 1 << 28:
                file.write(bytes(1 << 16))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        while path.stat().st_size < 1 << 20:
            time.sleep(0.001)
        with pytest.raises(ValueError, match='larger than 1,000,000 bytes'):
            untrusted.read_regular(path, 10**6)
    finally:
        done.set()
        writer.join()


def test_arrays_of_a_path_of_bytes_and_of_an_open_file(tmp_path):
    made = io.BytesIO()
    np.savez(made, a=np.arange(3))
    (tmp_path / 'x.npz').write_bytes(made.getvalue())
    with untrusted.open_regular(tmp_path / 'x.npz') as file:
        for source in (tmp_path / 'x.npz', made.getvalue(), file):
            np.testing.assert_array_equal(untrusted.arrays(source)['a'], np.arange(3))
