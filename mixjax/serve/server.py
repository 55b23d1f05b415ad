"""Listens: an address, a thread with an event loop, and an orderly end.

Connections have a time limit too, below HTTP: a client that sends its request byte by byte, or does not read the
answer, is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mixjax.errors import UserError, require

MOST_CONNECTIONS = 512
GRACE = 5.0  # seconds: for the answer to a request that took too long, and for requests when the server ends
KEEP = 20  # seconds that a connection stays open without a request


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 is any free one."""
    require(port <= 65_535, f'--port={port} is no port; they go up to 65535, and 0 is any that is free')
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UserError(f'--host={host} is no address of this machine; 127.0.0.1 is for this machine alone') from None
    family, kind, number, _, address = found[0]
    bound = socket.socket(family, kind, number)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # who comes before the server is ready waits, and the port is taken from now on
    except (OSError, OverflowError) as error:
        bound.close()
        code = getattr(error, 'errno', None)
        if code == errno.EADDRINUSE:
            raise UserError(f'--port={port} is in use; choose another one, or 0 for any that is free') from None
        if code == errno.EACCES:
            raise UserError(f'--port={port} is for the administrator; choose one above 1023') from None
        why = getattr(error, 'strerror', None) or error
        raise UserError(f'--host={host} --port={port} cannot be listened on: {why}') from None
    return bound


def url(host: str, bound: socket.socket, token: str) -> str:
    """Return the address of the page. A token is behind `#`, which a browser does not send."""
    port, name = bound.getsockname()[1], host
    if name in ('0.0.0.0', '::', ''):
        name = socket.gethostname()
    name = f'[{name}]' if ':' in name else name
    return f'http://{name}:{port}/{f"#token={token}" if token else ""}'


def protocol(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit of the time from the first byte of a request to the last of its answer."""

    class Limited(H11Protocol):
        _watch: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start()

        def data_received(self, data: bytes) -> None:
            if self._watch is None:
                self._start()
            super().data_received(data)

        def on_response_complete(self) -> None:
            self._stop()
            super().on_response_complete()
            if self.conn.their_state.__name__ != 'IDLE':  # it still sends, or has sent another request already
                self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _start(self) -> None:
            self._stop()
            self._watch = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None

    return Limited


def make_server(app: Any, seconds: float) -> uvicorn.Server:
    """Return a server that is not started. seconds: of a request."""
    # What a stranger sends must not fill the output; mistakes of ours are printed by the application.
    logging.getLogger('uvicorn').setLevel(logging.CRITICAL)
    return uvicorn.Server(
        uvicorn.Config(
            app, http=protocol(seconds + GRACE), ws='none', lifespan='off', loop='asyncio', interface='asgi3',
            log_config=None, access_log=False, proxy_headers=False, server_header=False,
            limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=KEEP, timeout_graceful_shutdown=int(GRACE),
        )
    )  # fmt: skip


@contextlib.contextmanager
def running(server: uvicorn.Server, bound: socket.socket) -> Iterator[threading.Thread]:
    """Run a server in a thread for the time of the block; it listens when the block begins."""
    thread = threading.Thread(target=server.run, kwargs={'sockets': [bound]}, name='serve', daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            thread.join(0.01)
        yield thread
    finally:
        server.should_exit = True
        thread.join()


def serve_until_stopped(server: uvicorn.Server, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered get their answers, unless it comes twice.

    Args:
      server: the server.
      bound: its socket.
      ready: is called when it listens.
    """
    stop = threading.Event()

    def stopped(*_: Any) -> None:
        server.force_exit = stop.is_set()
        stop.set()

    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(server, bound) as thread:
            ready()
            while thread.is_alive() and not stop.wait(0.5):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
