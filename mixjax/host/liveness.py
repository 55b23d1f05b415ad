"""A connection from each process to the first one, by which the death of a process is noticed at once.

The system closes the connections of a process that ends, however it ends, and no time-out has to be waited for: a
process that is only slow keeps its connection. A process that ends in good order says so before.

What no closed connection shows, such as a machine without power, is left to the heartbeats of `jax.distributed`. So is
everything where no connection can be made, because only one port is open between the machines, say.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

WAIT = 10.0  # seconds in which a connection is made, or is given up
BYE = b'.'  # the last byte of a process that ends in good order
Died = Callable[[int], None]

_mine: list[socket.socket] = []  # the connections of this process


def listen(client: Any, place: str, count: int, died: Died) -> None:
    """In the first process: await the others, and call `died(process)` for each that ends without a word.

    client: the service by which the processes tell each other. place: where the port is told.
    """
    token, both = secrets.token_hex(16), socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(('', 0), family=family, backlog=count, dualstack_ipv6=both)
    except OSError:
        client.key_value_set(place, '')
        return
    client.key_value_set(place, json.dumps([server.getsockname()[1], token]))
    threading.Thread(target=_accept, args=(server, token, count, died), name='mixjax-lifeline', daemon=True).start()


def _accept(server: socket.socket, token: str, count: int, died: Died) -> None:
    """Take the connections of the others. Whoever does not know the token is none of them, and is not listened to."""
    known: set[int] = set()
    with server:
        while len(known) < count - 1:
            connection, _ = server.accept()
            connection.settimeout(WAIT)
            with contextlib.suppress(OSError, ValueError):
                said, _, number = _line(connection).partition(b' ')
                process = int(number)
                if secrets.compare_digest(said, token.encode()) and 0 < process < count and process not in known:
                    known.add(process)
                    _watch(connection, process, died)
                    continue
            connection.close()


def _line(connection: socket.socket) -> bytes:
    """What a process says first: 64 bytes, the token and its number."""
    data = b''
    while len(data) < 64:
        more = connection.recv(64 - len(data))
        if not more:
            break
        data += more
    return data.strip()


def connect(client: Any, place: str, host: str, process: int, died: Died) -> None:
    """In the others: connect to the first process. `died(0)` is called if that ends without a word."""
    said = client.blocking_key_value_get(place, int(1000 * WAIT))
    if not said:
        return
    port, token = json.loads(said)
    with contextlib.suppress(OSError):
        connection = socket.create_connection((host, port), timeout=WAIT)
        connection.sendall(f'{token} {process}'.ljust(64).encode())
        _watch(connection, 0, died)


def _watch(connection: socket.socket, process: int, died: Died) -> None:
    connection.settimeout(None)
    _mine.append(connection)

    def read() -> None:
        last = b''
        try:
            while said := connection.recv(1):
                last = said
        except OSError:  # the network ended it, and not the process
            return
        if last != BYE:
            died(process)

    threading.Thread(target=read, name=f'mixjax-lifeline-{process}', daemon=True).start()


def bye() -> None:
    """Say that this process ends in good order, or that the others know already why it ends."""
    for connection in _mine:
        with contextlib.suppress(OSError):
            connection.sendall(BYE)
