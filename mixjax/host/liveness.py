"""Connections from each process to the first one, which show the death of a process at once.

The system closes the connections of a process that ends, however it ends, so no time-out is needed: a process that is
only slow keeps its connection. A process that ends normally says so first.

Failures that close no connection, such as a loss of power, are left to the heartbeats of `jax.distributed`. So are all
failures where no connection can be made, for example because only one port is open between the machines.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

WAIT = 10.0  # seconds to wait for a connection
BYE = b'.'  # the last byte of a process that ends normally
Died = Callable[[int], None]

_mine: list[socket.socket] = []  # the connections of this process


def listen(client: Any, place: str, count: int, died: Died) -> None:
    """In the first process, accept the others' connections, and call `died(process)` for each that ends without notice.

    Args:
      client: the key-value store of `jax.distributed`.
      place: the key under which the port is published.
      count: number of processes.
      died: the callback.
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
    """Accept the connections of the others; a connection that does not send the token is closed."""
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
    """Read the first message of a connection: 64 bytes, the token and the number of the process."""
    data = b''
    while len(data) < 64:
        more = connection.recv(64 - len(data))
        if not more:
            break
        data += more
    return data.strip()


def connect(client: Any, place: str, host: str, process: int, died: Died) -> None:
    """In the other processes, connect to the first one, and call `died(0)` if it ends without notice.

    Args:
      client: the key-value store of `jax.distributed`.
      place: the key under which the port is published.
      host: host of the first process.
      process: number of this process.
      died: the callback.
    """
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
        except OSError:  # the network closed it, not the process
            return
        if last != BYE:
            died(process)

    threading.Thread(target=read, name=f'mixjax-lifeline-{process}', daemon=True).start()


def bye() -> None:
    """Announce that this process ends normally, or that the others already know why it ends."""
    for connection in _mine:
        with contextlib.suppress(OSError):
            connection.sendall(BYE)
