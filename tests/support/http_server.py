"""A server of `mixjax serve`, in this process or in one of its own, on a free port, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.serve import access, app, server
from mixjax.serve.metrics import Metrics
from mixjax.serve.room import Limits, Room
from mixjax.serve.served import Job, Prepared
from tests.support.common import command, environment


class Answer(NamedTuple):
    """An answer: its status, its headers by lower-case names, and its body, as JSON where it is some."""

    status: int
    headers: dict[str, str]
    body: Any


class Fake:
    """A network that answers with what it is told to, when it is told to; for tests of what is around one.

    go: a semaphore that each image takes, or None. fails: an exception that every image ends with.
    """

    def __init__(self, name: str = 'fake', go: threading.Semaphore | None = None, fails: Exception | None = None):
        self.name, self.alive, self.waiting, self.go, self.fails = name, True, 0, go, fails
        self.seen: list[Any] = []
        self.pool = ThreadPoolExecutor(1)

    def prepare(self, pixels: Any, why: bool) -> Prepared:
        return Prepared(Job(pixels, why), None)

    def submit(self, job: Job) -> Future:
        return self.pool.submit(self._compute, job)

    def _compute(self, job: Job) -> Any:
        if self.go is not None:
            assert self.go.acquire(timeout=60)
        if self.fails is not None:
            raise self.fails
        self.seen.append(job)
        return job.stored.shape

    def answer(self, prepared: Prepared, seen: Any, top: int) -> dict[str, Any]:
        return {'model': self.name, 'shape': list(seen), 'top': top, 'why': prepared.job.why}

    def about(self) -> dict[str, Any]:
        return {'model': self.name}

    def close(self) -> None:
        self.pool.shutdown()


class Running(NamedTuple):
    """A server that answers."""

    port: int
    service: app.Service

    def ask(
        self, path: str = '/predict', body: bytes | Iterator[bytes] | None = None, method: str = '', **headers: str
    ) -> Answer:
        """Send one request over a connection of its own; `_` in the name of a header is `-`."""
        with contextlib.closing(http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)) as connection:
            return ask(connection, path, body, method, **headers)

    def raw(self, data: bytes, seconds: float = 60) -> bytes:
        """Send bytes, and return everything that comes back until the server closes the connection."""
        with socket.create_connection(('127.0.0.1', self.port), seconds) as connection:
            out = b''
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(data)
                while part := connection.recv(1 << 16):
                    out += part
            return out


def ask(
    connection: http.client.HTTPConnection, path: str, body: Any = None, method: str = '', **headers: str
) -> Answer:
    """Send a request over a connection that stays open."""
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    if body is not None and 'Content-Type' not in named:
        named['Content-Type'] = 'application/octet-stream'
    connection.request(method or ('GET' if body is None else 'POST'), path, body, named)
    response = connection.getresponse()
    data = response.read()
    told = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, told, json.loads(data) if told.get('content-type') == 'application/json' else data)


@contextlib.contextmanager
def serving(
    make: Callable[[Limits, Metrics], list[Any]], limits: Limits | None = None, token: str = '',
    address: str = '127.0.0.1',
) -> Iterator[Running]:  # fmt: skip
    """Serve networks for the time of the block. address: what the rules are of; it listens on the loopback one."""
    limits, metrics = limits or Limits(), Metrics()
    models = {model.name: model for model in make(limits, metrics)}
    with server.listen('127.0.0.1', 0) as bound, ThreadPoolExecutor(limits.workers) as pool:
        service = app.Service(models, limits, access.rules(address, token), metrics, Room(limits), pool)
        with server.running(server.make_server(app.make(service), limits.seconds), bound):
            yield Running(bound.getsockname()[1], service)
    for model in models.values():
        model.close()


@contextlib.contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen, int, str]]:
    """The command, once it listens: (process, its port, what it has printed so far)."""
    small = [] if any(word.startswith('--batch') for word in words) else ['--batch=1']  # to compile less
    env = {**environment(), 'MIXJAX_CACHE': str(folder / 'cache')}
    process = subprocess.Popen(
        command('serve', '--port=0', *small, *words, module='mixjax'), cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    watch = threading.Timer(120, process.kill)
    watch.start()
    said = ''
    try:
        while 'open http://' not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, int(re.search(r'http://[^/]*:(\d+)/', said)[1]), said
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
