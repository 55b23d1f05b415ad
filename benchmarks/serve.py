"""The speed of `mixjax serve`: many clients at once, each with the next image as soon as it has an answer.

    mixjax serve runs/photos
    python -m benchmarks.serve http://127.0.0.1:8000 photo.jpg another.jpg --clients=64 --seconds=60

Clients keep their connections, and wait as long as the server says if it refuses an image for lack of room. The clients
take a part of the machine too, so the figures are lower bounds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

Check = Callable[[int, bytes], None]


class Load(NamedTuple):
    """Load that clients put on a server.

    Attributes:
      host, port: of the server.
      bodies: bytes of image files; clients take them in turn.
      clients: how many ask at once.
      seconds: how long.
      query: what follows `/predict` in the address.
    """

    host: str
    port: int
    bodies: Sequence[bytes]
    clients: int
    seconds: float
    query: str = ''


class Measured(NamedTuple):
    """Measured answers of a server.

    Attributes:
      codes: how many answers had each status.
      latency: (n,), seconds from each request that was answered by 200 to its answer.
      seconds: from the first request to the last answer.
      lost: requests without an answer.
    """

    codes: Counter[int]
    latency: np.ndarray
    seconds: float
    lost: int

    def text(self) -> str:
        """Return the figures in a line."""
        p50, p99 = np.percentile(self.latency, (50, 99)) * 1000
        return (
            f'{len(self.latency):,} images in {self.seconds:.1f} s, {len(self.latency) / self.seconds:.1f} images/s, '
            f'p50 {p50:.0f} ms, p99 {p99:.0f} ms, {self.codes[503]:,} refused (503), {self.lost} lost'
        )


async def send(load: Load, check: Check | None = None) -> Measured:
    """Let all clients ask for their time. check: is called with the place of a body and the answer to it, if 200."""
    codes: Counter[int] = Counter()
    latency: list[float] = []
    lost, began = 0, time.monotonic()

    async def client(number: int) -> None:
        nonlocal lost
        reader, writer = await asyncio.open_connection(load.host, load.port)
        place = number
        while time.monotonic() - began < load.seconds:
            place = (place + 1) % len(load.bodies)
            asked = time.monotonic()
            try:
                status, wait, body = await _request(reader, writer, load, load.bodies[place])
            except (OSError, EOFError, ValueError):
                lost += 1
                writer.close()
                reader, writer = await asyncio.open_connection(load.host, load.port)
                continue
            codes[status] += 1
            if status == 200:
                latency.append(time.monotonic() - asked)
                if check is not None:
                    check(place, body)
            await asyncio.sleep(wait)
        writer.close()

    await asyncio.gather(*map(client, range(load.clients)))
    return Measured(codes, np.array(latency), time.monotonic() - began, lost)


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load, body: bytes
) -> tuple[int, float, bytes]:
    """Send an image; returns the status, how long to wait before the next one, and the answer."""
    head = (
        f'POST /predict{load.query} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\n'
        f'Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n'
    )
    writer.write(head.encode() + body)
    await writer.drain()
    lines = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').split('\r\n')
    headers = dict(line.lower().split(': ', 1) for line in lines[1:] if line)
    answer = await reader.readexactly(int(headers['content-length']))
    return int(lines[0].split()[1]), float(headers.get('retry-after', 0)), answer


def main(words: Sequence[str]) -> int:
    """Measure a server; returns the exit code."""
    flags = {'clients': '64', 'seconds': '60', 'query': ''}
    for name, _, value in (word[2:].partition('=') for word in words if word.startswith('--')):
        flags[name] = value
    address, *files = [word for word in words if not word.startswith('--')]
    where = urlsplit(address)
    bodies = [Path(file).read_bytes() for file in files]
    load = Load(
        where.hostname or '', where.port or 80, bodies, int(flags['clients']), float(flags['seconds']), flags['query']
    )
    print(asyncio.run(send(load)).text())
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
