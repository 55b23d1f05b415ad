"""What one processor core decodes, in images a second of its time.

    python -m benchmarks.feed

Prints a table. The pictures are made here: noise whose spectrum falls as that of photographs does, with edges,
as JPEG of the size that a photograph of ImageNet has on average. All ways are measured in turn, and the
fastest of several rounds counts, so that other work on the machine disturbs little. A minute.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from mixjax.data import photo

ROUNDS = 12
SECONDS = 0.25  # of one way in one round
RULE = photo.Rule(256)


def scene(height: int, width: int, size: int, quality: int = 90) -> bytes:
    """A JPEG of about `size` bytes."""
    random = np.random.default_rng(0)
    noise = np.fft.rfft2(random.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    data = b''
    for slope in np.arange(0.8, 2.2, 0.05):
        image = np.fft.irfft2(noise / frequency**slope, (height, width))
        image = (image - image.mean()) / image.std() * 50 + 128
        image[:, height // 3 : height // 2, width // 4 : width // 2] += 60
        file = io.BytesIO()
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, 'JPEG', quality=quality)
        data = file.getvalue()
        if len(data) <= size:
            break
    return data


def by_pillow(data: bytes) -> np.ndarray:
    """The reference: Resize(256) and CenterCrop(256) of torchvision on a Pillow image."""
    image = Image.open(io.BytesIO(data)).convert('RGB')
    width, height = image.size
    short = min(width, height)
    wide, high = (256 if edge == short else int(256 * edge / short) for edge in (width, height))
    left, top = (int(round((edge - 256) / 2)) for edge in (wide, high))
    image = image if image.size == (wide, high) else image.resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + 256, top + 256)))


def rates(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Calls in a second of processor time."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, call in ways.items():
            calls, start = 0, time.process_time()
            while (spent := time.process_time() - start) < SECONDS:
                call()
                calls += 1
            best[name] = max(best[name], calls / spent)
    return best


def decoding() -> list[str]:
    """A Markdown table of what a core does, by the size of the photograph."""
    lines = [
        '| photograph | kB | Pillow | decode | decode and square | to Pillow |',
        '| --- | --: | --: | --: | --: | --: |',
    ]
    for height, width, size in ((375, 500, 86_000), (375, 500, 110_000), (683, 1024, 324_000), (256, 256, 53_000)):
        data = scene(height, width, size)
        assert np.abs(photo.read(data, RULE).astype(int) - by_pillow(data)).max() <= 1
        found = rates(
            {
                'pillow': lambda data=data: by_pillow(data),
                'decode': lambda data=data: photo.decode(data),
                'read': lambda data=data: photo.read(data, RULE),
            }
        )
        lines.append(
            f'| {width} x {height} | {len(data) / 1000:.0f} | {found["pillow"]:.0f} | {found["decode"]:.0f} | '
            f'{found["read"]:.0f} | {found["read"] / found["pillow"]:.2f} x |'
        )
    return lines


def main() -> None:
    print('\n'.join(decoding()))


if __name__ == '__main__':
    main()
