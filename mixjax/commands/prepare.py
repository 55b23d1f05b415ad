"""`mixjax prepare`: download or unpack a data set and convert it for training."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixjax.commands.parser import Arguments
from mixjax.data.datasets import catalog, tfds_copy
from mixjax.data.datasets.entries import Entry
from mixjax.errors import UserError
from mixjax.host import storage


def prepare(
    name: str, *, data_dir: str = '', archives: str = '', skip_corrupt: bool = False, allow_counts: bool = False
) -> str:
    """Prepare a data set, and say what is there now."""
    facts = catalog.entry(name)
    if not facts.tfds:
        raise UserError(f'{name} comes with mixjax or with a package it needs: there is nothing to prepare')
    folder = catalog.folder(name, data_dir)
    root = folder.parents[1]
    by_hand = storage.to_place(archives) if archives else root / 'downloads' / 'manual'
    counts = dict.fromkeys(facts.splits, 0)
    if not allow_counts:
        counts = dict(zip(facts.splits, (facts.train, facts.test), strict=True))
    with _alone(folder):
        if not folder.exists():
            write = _from_files if facts.ours else _by_tfds
            write(facts, root, by_hand, allow_counts)
        fault = catalog.fault(facts, folder)
        if fault:
            raise UserError(f'{folder}: {fault}')
        known = tfds_copy.index(folder, counts, facts.classes, check=True, skip=skip_corrupt)
    train, test = (len(known[split].label) for split in facts.splits)
    lines = [f'{name}: {train:,} training and {test:,} test images of {facts.classes} classes in {folder}']
    left_out = sum(len(tfds_copy.Records(folder, split)) - len(known[split].label) for split in facts.splits)
    if left_out:
        lines.append(f'{left_out:,} that cannot be read are left out: {folder / tfds_copy.SKIPPED} lists them')
    return '\n'.join(lines)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse to work beside another process on the same set; clear away what one that was killed left."""
    try:
        parent = storage.resolve_links(folder.parent)
        storage.make_folder(parent)
        lock = storage.open_append(parent / '.mixjax_lock')
    except OSError as error:
        raise UserError(f'{folder.parent} cannot be written to ({error.strerror}); choose another --data-dir') from None
    try:
        with contextlib.suppress(ImportError):  # a system without such locks
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in folder.parent.glob(f'incomplete.*_{folder.name}'):
            shutil.rmtree(left, ignore_errors=True)
        yield
    except BlockingIOError:
        raise UserError(f'another process is preparing {folder}; wait for it to end') from None
    finally:
        lock.close()


def _from_files(facts: Entry, root: Path, by_hand: Path, allow_counts: bool) -> None:
    """Write the records of a set that one of our builders knows."""
    _needs('tensorflow_datasets', facts, 'tensorflow-datasets')
    module = importlib.import_module(f'mixjax.data.datasets.builders.{facts.tfds}')
    name = ''.join(word.capitalize() for word in facts.tfds.split('_'))
    builder = getattr(module, name)(
        archives=by_hand, any_counts=allow_counts, data_dir=str(root), file_format='array_record'
    )
    _write(builder, facts, root, by_hand)


def _by_tfds(facts: Entry, root: Path, by_hand: Path, allow_counts: bool) -> None:
    """Write the records of a set that TensorFlow Datasets knows."""
    del allow_counts  # compared afterwards
    _needs('tensorflow_datasets', facts, 'tensorflow-datasets')
    _needs('tensorflow', facts, 'mixjax[prepare]')
    import tensorflow_datasets as tfds

    name = f'{facts.tfds}:{facts.version}'
    _write(tfds.builder(name, data_dir=str(root), file_format='array_record'), facts, root, by_hand)


def _needs(module: str, facts: Entry, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        title = {'tensorflow': 'TensorFlow', 'tensorflow_datasets': 'TensorFlow Datasets'}[module]
        again = f'mixjax prepare --dataset={facts.name}'
        raise UserError(
            f'{facts.name} cannot be prepared without {title}, which training does not need: '
            f'pip install {shlex.quote(package)}, then {again} again'
        )


def _write(builder: Any, facts: Entry, root: Path, by_hand: Path) -> None:
    """Let TensorFlow Datasets write the records: to a folder with another name, renamed when all is there."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    where = tfds.download.DownloadConfig(manual_dir=str(by_hand))
    print(f'{facts.name}: writing records to {builder.data_dir}', file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what it says, we say
            builder.download_and_prepare(download_dir=str(root / 'downloads'), download_config=where)
    except UserError:
        raise
    except Exception as error:  # of the network, of a foreign archive, of the disk
        raise UserError(_what_failed(error, builder, facts, by_hand)) from error


def _what_failed(error: Exception, builder: Any, facts: Entry, by_hand: Path) -> str:
    why = f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'[:300]
    by_hand_lines = [line for line in facts.get if line.startswith('# ')]
    if isinstance(error, AssertionError) and by_hand_lines:
        todo = by_hand_lines[0].removeprefix('# ').replace('DIR/downloads/manual', str(by_hand))
        return f'{facts.name}: files are missing; {todo}'
    wanted = {url: about for url, about in getattr(builder, 'url_infos', {}).items() if about.filename}
    lost = [
        f'\n  {about.filename} from {url}' for url, about in wanted.items() if not (by_hand / about.filename).exists()
    ]
    if _of_network(error) and lost:
        return f'the files of {facts.name} cannot be fetched ({why}); put them into {by_hand} by hand:{"".join(lost)}'
    return f'{facts.name} could not be prepared ({why}); nothing was kept of it, the same command tries again'


def _of_network(error: BaseException) -> bool:
    """Return whether a download failed: the classes are those of requests, urllib3 and TensorFlow Datasets."""
    names = {one.__name__ for one in type(error).__mro__}
    return bool(
        names & {'DownloadError', 'RequestException', 'HTTPError', 'NonMatchingChecksumError', 'ConnectionError'}
    )


def run(arguments: Arguments) -> int:
    """Prepare, and print what is there now; returns the exit code."""
    said = prepare(
        arguments['dataset'],
        data_dir=arguments['data-dir'],
        archives=arguments['archives'],
        skip_corrupt=arguments['skip-corrupt'],
        allow_counts=arguments['allow-counts'],
    )
    print(said)
    return 0
