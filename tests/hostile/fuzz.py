"""Wrong files for everything that reads files: `python -m tests.hostile.fuzz --minutes=2 [--reader=images]`.

Each reader gets its share of the time that is left, or `--count` inputs, in a process of its own, with an
upper limit of memory. A finding is an error that is no sentence, an input that takes longer than `HANGS`, more memory
than is allowed, the death of the process, or a file that appears outside of the folder; the input is kept in runs/fuzz.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.hostile.readers import READERS as OF_FILES
from tests.hostile.report_readers import READERS as OF_REPORTS

READERS = {**OF_FILES, **OF_REPORTS}
# The readers of `run_readers`.
OF_RUNS = (
    'config.json', 'inputs.json', 'metrics.jsonl', 'prepared arrays', 'sums of a checkpoint',
    'format of a checkpoint', 'lock.json', 'model.json', 'safetensors', 'torch files', 'beside weights', 'checkpoints',
    'strangers: report', 'strangers: training',
)  # fmt: skip
HANGS = 10.0  # seconds
KEPT = Path('runs') / 'fuzz'
MOST_FINDINGS = 5  # of a reader


class Hang(BaseException):
    pass


def attempt(name: str, path: Path) -> str:
    """What is wrong with how a reader takes a file; '' if nothing is."""

    def late(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            READERS[name].read(path)
    except READERS[name].refuses as error:
        return '' if str(error).strip() else f'{type(error).__name__} says nothing'
    except Hang:
        return f'it hangs for {HANGS:.0f} s'
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return ''


def inputs(name: str, folder: Path, start: int) -> Any:
    """(number, bytes) without end; the number and the reader decide the bytes."""
    good = READERS[name].good(folder)
    number = start
    while True:
        random_ = random.Random(f'{name} {number}')
        yield number, READERS[name].flaw(random_.choice(good), random_, good)
        number += 1


def campaign(name: str, folder: Path, seconds: float, count: int = 10**9, start: int = 0) -> tuple[int, list[str]]:
    """(how many inputs, what was found) in so many seconds, or for so many inputs."""
    inside = folder / 'sandbox' / 'inside'
    inside.mkdir(parents=True)
    made, found, until = 0, [], time.monotonic() + seconds
    for data in READERS[name].good(inside):
        (inside / READERS[name].name).write_bytes(data)
        why = attempt(name, inside / READERS[name].name)
        if why:
            found.append(f'a right file is refused: {why}')
    for number, data in inputs(name, inside, start):
        if made >= count or len(found) >= MOST_FINDINGS or time.monotonic() > until:
            break
        path = inside / READERS[name].name
        path.write_bytes(data)
        why = attempt(name, path)
        made += 1
        if [item.name for item in (folder / 'sandbox').iterdir()] != ['inside']:
            why += ' it wrote outside of its folder'
        if why:
            KEPT.mkdir(parents=True, exist_ok=True)
            kept = KEPT / f'{name.replace(" ", "-").replace(":", "")}-{number}'
            kept.write_bytes(data)
            found.append(f'{kept}: {why}')
    return made, found


def bounded(name: str) -> None:
    """Limit the memory of this process to what it has and what the reader may take."""
    folder = Path(tempfile.mkdtemp())  # what it imports is not its memory
    (folder / READERS[name].name).write_bytes(READERS[name].good(folder)[0])
    attempt(name, folder / READERS[name].name)
    shutil.rmtree(folder)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * os.sysconf('SC_PAGE_SIZE') + READERS[name].memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def child(name: str, folder: str, seconds: float, count: int, start: int, answer: Any) -> None:
    said = os.open(Path(folder) / 'said', os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)  # decoders written in C tell their complaints there
    os.environ['MIXJAX_CACHE'] = str(Path(folder) / 'cache')  # not the user's own
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + 6 * HANGS, exit=True)  # a hang that no signal ends
    bounded(name)
    answer.send(campaign(name, Path(folder), seconds, count, start))


def apart(name: str, seconds: float, count: int = 10**9, start: int = 0) -> tuple[int, list[str]]:
    """`campaign` in a process of its own; its death is a finding."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=child, args=(name, folder, seconds, count, start, theirs))
        process.start()
        theirs.close()
        try:
            found = ours.recv()
        except EOFError:
            found = None
        process.join()
        if found is not None:
            return found
        why = (Path(folder) / 'said').read_text(errors='replace')[-3000:]
        last = Path(folder) / 'sandbox' / 'inside' / READERS[name].name
        KEPT.mkdir(parents=True, exist_ok=True)
        kept = KEPT / f'{name.replace(" ", "-").replace(":", "")}-died'
        kept.write_bytes(last.read_bytes() if last.exists() else b'')
        return 0, [f'{kept}: its process died with {process.exitcode}\n{why}']


def main(words: list[str]) -> int:
    flags = dict(word.removeprefix('--').partition('=')[::2] for word in words)
    wanted, light = flags.get('reader', ''), set(READERS)
    chosen = [name for name in (*READERS, *OF_RUNS) if wanted in name]
    end = time.monotonic() + 60 * float(flags.get('minutes', '2'))
    start = int(flags.get('start') or 1000 * time.time())  # another part each time
    total, bad = 0, 0
    for left, name in zip(range(len(chosen), 0, -1), chosen, strict=True):
        if name not in light:  # these import jax, and with it no process should fork for the others
            READERS.update(importlib.import_module('tests.hostile.run_readers').READERS)
        began = time.monotonic()
        made, found = apart(name, (end - began) / left, int(flags.get('count') or 10**9), start)
        total, bad = total + made, bad + len(found)
        print(f'{name:24} {made:9,} inputs in {time.monotonic() - began:4.0f} s, {len(found)} findings', flush=True)
        for one in found:
            print(f'    {one}', flush=True)
    print(f'{total:,} inputs from number {start} on, {bad} findings')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
