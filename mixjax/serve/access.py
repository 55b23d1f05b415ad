"""Access to a server: not for pages of other sites, not by a foreign name, from other machines only with a token.

A server on the loopback address needs no password, so everything that a browser on the machine opens could ask it. Two
headers prevent that, which a page cannot set: `Host` must name this machine (a name that an attacker's DNS points to
127.0.0.1 does not), and `Origin`, where a browser sends it, must be the server's own. On any other address, and where
the user wants it, requests need a token, which no other site knows; then the names do not matter, as behind a proxy.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from mixjax.errors import UserError
from mixjax.serve.room import Refused

OPEN = ('/', '/page.css', '/page.js', '/health')  # without a token: they tell nothing of the networks
SHORTEST = 16  # characters of a token


class Access(NamedTuple):
    """Rules of a server.

    Attributes:
      loopback: whether it listens on this machine alone.
      token: the token that is needed; '' if none is, which is so on the loopback address only.
    """

    loopback: bool
    token: str

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise `Refused` for a request that is not allowed. headers: by lower-case names."""
        if not self.token:
            host, origin = headers.get('host', ''), headers.get('origin')
            if not is_local(host):
                raise Refused(403, 'this server answers to the names localhost and 127.0.0.1 only')
            if origin is not None and not same_origin(origin, host):
                raise Refused(403, 'pages of other sites may not ask this server')
        elif path not in OPEN and not self._knows(headers.get('authorization', '')):
            raise Refused(
                401, 'this server needs its token, in the header Authorization: Bearer TOKEN', WWW_Authenticate='Bearer'
            )

    def _knows(self, header: str) -> bool:
        kind, _, given = header.partition(' ')
        return kind.lower() == 'bearer' and hmac.compare_digest(given.strip().encode(), self.token.encode())


def rules(address: str, token: str) -> Access:
    """Return the rules of a server that listens on an IP address.

    Args:
      address: the address.
      token: the user's; '' makes one, if the address is not the loopback one.
    """
    if token and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or ' ' in token):
        raise UserError(f'--token must be at least {SHORTEST} letters, digits or signs without spaces')
    loopback = ipaddress.ip_address(address.partition('%')[0]).is_loopback
    return Access(loopback, token or ('' if loopback else secrets.token_urlsafe(24)))


def is_local(host: str) -> bool:
    """Return whether a `Host` header names this machine: localhost or a loopback address, with any port."""
    try:
        name = '' if '@' in host else urlsplit(f'//{host}').hostname or ''
        return name == 'localhost' or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def same_origin(origin: str, host: str) -> bool:
    """Return whether an `Origin` header is of a page of the server that the `Host` header names."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ('http', 'https') and parts.netloc.lower() == host.lower()
