"""Too little memory is never a property of a file, and threads share one budget."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixjax.data.pixels import memory, photo
from tests.support import raw_images

ROOT = Path(__file__).parents[3]

BEGIN = """
import io, os, resource, sys
import cv2, numpy as np
import PIL.BmpImagePlugin, PIL.GifImagePlugin, PIL.PngImagePlugin, PIL.TiffImagePlugin, PIL.WebPImagePlugin
from PIL import Image
from mixjax.data.datasets import folder
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from tests.support import raw_images

def limit(more):  # bytes beyond what the process has now; None for all
    has = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    most = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most if more is None else has + more, most))

N = 2400
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).resize((N, N))
deep = np.asarray(image)[..., 0].astype('u2') * 257

def saved(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()

files = {
    'a.jpg': saved(image, 'JPEG'), 'progressive.jpg': saved(image, 'JPEG', progressive=True),
    'cmyk.jpg': saved(image.convert('CMYK'), 'JPEG'), 'a.png': saved(image, 'PNG', compress_level=1),
    'a.webp': saved(image, 'WEBP', method=0), 'lossless.webp': saved(image, 'WEBP', lossless=True, quality=0, method=0),
    'a.gif': saved(image.convert('P'), 'GIF'), 'a.bmp': saved(image, 'BMP'),
    'lzw.tif': saved(image, 'TIFF', compression='tiff_lzw'), 'jpeg.tif': saved(image, 'TIFF', compression='jpeg'),
    'raw.tif': saved(image, 'TIFF'), 'float.tif': raw_images.tiff((deep / 65535).astype('f4'), deflate=True),
    'deep.png': raw_images.png(deep.astype('>u2'), 16), 'a.pgm': raw_images.pnm('5', deep, '65535'),
}
"""


def run(script, folder):
    done = subprocess.run(
        [sys.executable, '-c', BEGIN + script, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_good_images_are_never_called_damaged_for_lack_of_memory(tmp_path):
    script = """
right = {name: photo.decode(data)[::7].tobytes() for name, data in files.items()}
for more in (1, 12, 32, 64, 96, 160, 256):
    limit(more << 20)
    for name, data in files.items():
        try:
            print(more, name, 'right' if photo.decode(data)[::7].tobytes() == right[name] else 'wrong')
        except photo.OutOfMemory as error:
            print(more, name, 'refused', error)
    limit(None)
for name, data in files.items():
    assert photo.decode(data)[::7].tobytes() == right[name]
    limit(1 << 29)
    try:
        photo.decode(data[: len(data) // 2])
        print('cut', name, 'wrong')
    except photo.Unreadable:
        pass
    limit(None)
"""
    lines = run(script, tmp_path)
    words = [line.split()[2] for line in lines]
    assert len(lines) == 7 * 14 and set(words) == {'right', 'refused'}, lines
    assert sum(line.split()[2] == 'refused' for line in lines) > 20  # both were seen
    assert sum(line.split()[2] == 'right' for line in lines[-14:]) > 10
    sentence = next(line for line in lines if 'refused' in line)
    assert '2400 x 2400 pixels' in sentence and 'memory' in sentence


def test_a_folder_is_read_again_after_there_was_too_little_memory(tmp_path):
    script = """
from pathlib import Path
top, cache = Path(sys.argv[1]) / 'top', Path(sys.argv[1]) / 'cache'
for k, (name, data) in enumerate(files.items()):
    place = top / 'ab'[k % 2] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
limit(24 << 20)
try:
    print('read', len(folder.scan(str(top), holdout=0.0, cache=cache).train))
except UserError as error:
    print(error)
limit(None)
found = folder.scan(str(top), holdout=0.0, cache=cache)
print(len(found.train), found.unreadable)
"""
    first, second = run(script, tmp_path)
    assert 'memory' in first and 'damaged' not in first
    assert second == '14 {}'


def test_a_budget_is_never_exceeded_and_serves_in_order():
    budget, order, most = memory.Budget(10), [], []

    def work(k, count):
        with budget.hold(count):
            order.append(k)
            most.append(budget.held)
            time.sleep(0.002)

    with budget.hold(10):
        threads = []
        for k, count in enumerate([3, 10, 3, 3, 3, 1, 9, 5, 5]):
            threads.append(threading.Thread(target=work, args=(k, count)))
            threads[-1].start()
            while len(budget._waiting) <= k:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert max(most) <= 10 and budget.held == 0
    assert order[:2] == [0, 1] and sorted(order) == list(range(9))  # the large one is not passed by small ones
    with pytest.raises(ValueError, match='more than the budget'), budget.hold(11):
        pass


def test_threads_share_the_budget_of_decoding(monkeypatch):
    data = raw_images.png(np.zeros((100, 100, 3), np.uint8))
    together = []
    plain = photo._decoded

    def slow(*args):
        together.append(photo.MEMORY.held)
        time.sleep(0.01)
        return plain(*args)

    monkeypatch.setattr(photo, 'MEMORY', memory.Budget(300_000))  # an image takes 120,000
    monkeypatch.setattr(photo, '_decoded', slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(photo.decode, [data] * 16))
    assert max(together) <= 300_000 and len({n > 200_000 for n in together}) == 2
    with pytest.raises(photo.Unreadable, match='200 x 200 pixels, which take'):
        photo.decode(raw_images.png(np.zeros((200, 200, 3), np.uint8)))


def test_failed_decode_is_retried_alone(monkeypatch):
    """Decoders say that a file is damaged when memory is short; alone it may not be."""
    data = raw_images.png(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    held = []
    plain = Image.open

    def fails_once(*args, **options):
        held.append(photo.MEMORY.held)
        if len(held) == 1:
            raise OSError('broken data stream')
        return plain(*args, **options)

    monkeypatch.setattr(Image, 'open', fails_once)
    assert photo.decode(data).shape == (10, 10, 3)
    assert held[0] < photo.MEMORY.total == held[1]


def test_decoding_stays_within_the_estimated_memory(tmp_path):
    script = """
def kilobytes(name):
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(name))

for name, data in files.items():
    for channels in (1, 3):
        child = os.fork()  # a peak of memory stays
        if not child:
            open('/proc/self/clear_refs', 'w').write('5')
            before = kilobytes('VmRSS')
            photo.read(data, photo.Rule(224, channels=channels, upright=True))
            taken, count = (kilobytes('VmHWM') - before) * 1024, len(files[name])
            kind = {'tif': 'TIFF', 'webp': 'WEBP'}.get(name[-4:].strip('.'), '')
            allowed = 2 * count + N * N * photo.PIXEL.get(kind, photo.PIXEL_OF_OTHERS) + (8 << 20)
            print(name, taken <= allowed, taken, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""
    lines = run(script, tmp_path)
    assert len(lines) == 28 and all(line.split()[1] == 'True' for line in lines), lines
