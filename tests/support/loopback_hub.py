"""A Hugging Face hub on 127.0.0.1: repositories in memory, with the faults of a network on request.

`HF_ENDPOINT` is its address. It answers what the client of the hub asks for: the listing of a revision, and HEAD and
GET of files with their hashes and ranges; large files are redirected to another address, as to the hub's store. And
what it asks for when it sends: a new repository, which files are large (none), and a commit.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = '0123456789abcdef0123456789abcdef01234567'


@dataclasses.dataclass
class Repository:
    """A repository: {name: content} of one commit.

    Attributes:
      files: its contents.
      card: its metadata, such as {'license': 'mit'}.
      branches: names of its commit.
      private: made as a private one.
      messages: of the commits that were sent.
      access: 'open', 'gated' (needs consent and a token) or 'private' (looks as if it were not there).
      large: files that are kept in the store, with a SHA-256.
      cut: {name: bytes after which the connection is closed}; taken off by the first request that it cuts.
      always: never take a cut off.
      stall: {name: bytes after which the server waits, once, until `go` is set}; `stalled` is set then.
      wrong: {name: content that is sent in place of the right one}.
      ranges: honour requests for a part of a file.
      listed: state sizes and hashes in the listing.
      status: answer everything with this error.
    """

    files: dict[str, bytes]
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    branches: tuple[str, ...] = ('main',)
    access: str = 'open'
    large: tuple[str, ...] = ()
    cut: dict[str, int] = dataclasses.field(default_factory=dict)
    always: bool = False
    stall: dict[str, int] = dataclasses.field(default_factory=dict)
    stalled: threading.Event = dataclasses.field(default_factory=threading.Event)
    go: threading.Event = dataclasses.field(default_factory=threading.Event)
    wrong: dict[str, bytes] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    listed: bool = True
    status: int = 0
    private: bool = False
    messages: list[str] = dataclasses.field(default_factory=list)


class Hub:
    """The running server.

    Attributes:
      address: for `HF_ENDPOINT`.
      repositories: {OWNER/NAME: repository}.
      asked: 'METHOD path' of each request, with ' bytes=..' behind those for a part.
      sent: bytes of files that were sent.
      store: the address of large files, which is another host by its name.
      signed: paths of the requests that had a token.
      writes: status with which everything that is sent is refused; 0 to take it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.sent = 0
        self.store = address.replace('127.0.0.1', 'localhost')
        self.signed: list[str] = []
        self.writes = 0
        self.lock = threading.Lock()

    def add(self, name: str, files: dict[str, bytes], **settings: Any) -> Repository:
        self.repositories[name] = Repository(files, **settings)
        return self.repositories[name]


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Run a hub until the end of the block."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = Hub(f'http://127.0.0.1:{server.server_address[1]}')  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.partition('?')[0])
        body = self.rfile.read(int(self.headers['Content-Length'] or 0))
        if hub.writes or not self.headers['Authorization']:
            return self._fail(hub.writes or 401, '')
        with hub.lock:
            hub.asked.append(f'POST {path}')
        if path == '/api/repos/create':
            said = json.loads(body)
            name = f'{said["organization"]}/{said["name"]}'
            found = json.dumps({'url': f'{hub.address}/{name}', 'id': name}).encode()
            if name in hub.repositories:
                return self._body(found, 409)
            hub.add(name, {}, private=bool(said.get('private')) or said.get('visibility') == 'private')
            return self._body(found)
        if path == '/api/validate-yaml':  # of a card
            return self._body(b'{"warnings": [], "errors": []}')
        match = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/main', path)
        assert match is not None, path
        if match[2] == 'preupload':
            files = [{'path': one['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                     for one in json.loads(body)['files']]  # fmt: skip
            return self._body(json.dumps({'files': files}).encode())
        for line in body.splitlines():
            one = json.loads(line)
            if one['key'] == 'header':
                hub.repositories[match[1]].messages.append(one['value']['summary'])
            else:
                assert one['key'] == 'file' and one['value']['encoding'] == 'base64'
                hub.repositories[match[1]].files[one['value']['path']] = base64.b64decode(one['value']['content'])
        url = f'{hub.address}/{match[1]}/commit/{COMMIT}'
        return self._body(json.dumps({'success': True, 'commitOid': COMMIT, 'commitUrl': url}).encode())

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.partition('?')[0])
        with hub.lock:
            part = f' {self.headers["Range"]}' if self.headers['Range'] else ''
            hub.asked.append(f'{self.command} {path}{part}')
            hub.signed += [path] if self.headers['Authorization'] else []
        listing = re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/revision/(.+))?', path)
        file = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        stored = re.fullmatch(r'/store/([^/]+/[^/]+)/(.+)', path)
        match = listing or file or stored
        repository = hub.repositories.get(match[1]) if match else None
        token = self.headers['Authorization']
        if repository is None or (repository.access == 'private' and not token and not stored):
            return self._fail(404 if token else 401, 'RepoNotFound')
        if repository.status:
            return self._fail(repository.status, '')
        if stored:
            return self._send(hub, repository, stored[2])
        revision = (listing or file)[2] or 'main'  # type: ignore[index]
        if revision not in (*repository.branches, COMMIT):
            return self._fail(404, 'RevisionNotFound')
        if listing:
            return self._list(repository, listing[1])
        assert file is not None
        if repository.access == 'gated' and not token:
            return self._fail(401, 'GatedRepo')
        if repository.access == 'refused':
            return self._fail(403, 'GatedRepo')
        if file[3] not in repository.files:
            return self._fail(404, 'EntryNotFound')
        if file[3] in repository.large:
            body = repository.files[file[3]]
            return self._head(302, {
                'Location': f'{hub.store}/store/{file[1]}/{file[3]}', 'X-Linked-Size': str(len(body)),
                'X-Linked-ETag': f'"{_digest(repository, file[3])}"', 'X-Repo-Commit': COMMIT, 'Content-Length': '0',
            })  # fmt: skip
        return self._send(hub, repository, file[3])

    def _list(self, repository: Repository, name: str) -> None:
        siblings = []
        for file, body in repository.files.items():
            one: dict[str, Any] = {'rfilename': file}
            if repository.listed:
                one |= {'size': len(body), 'blobId': _git(body)}
                if file in repository.large:
                    one['lfs'] = {'size': len(body), 'sha256': hashlib.sha256(body).hexdigest(), 'pointerSize': 134}
            siblings.append(one)
        gated = 'manual' if repository.access in ('gated', 'refused') else False
        said = {'id': name, 'modelId': name, 'sha': COMMIT, 'gated': gated, 'siblings': siblings}
        self._body(json.dumps(said | ({'cardData': repository.card} if repository.card else {})).encode())

    def _send(self, hub: Hub, repository: Repository, name: str) -> None:
        """Send a file, or the part of it that was asked for, up to its cut."""
        body = repository.wrong.get(name, repository.files[name])
        facts = {'ETag': f'"{_digest(repository, name)}"', 'X-Repo-Commit': COMMIT, 'Accept-Ranges': 'bytes'}
        start, status = re.fullmatch(r'bytes=(\d+)-', self.headers['Range'] or ''), 200
        if start and repository.ranges:
            status, facts['Content-Range'] = 206, f'bytes {start[1]}-{len(body) - 1}/{len(body)}'
            body = body[int(start[1]) :]
        self._head(status, {**facts, 'Content-Length': str(len(body))})
        if self.command == 'HEAD':
            return
        cut = repository.cut.get(name) if repository.always else repository.cut.pop(name, None)
        pause = repository.stall.pop(name, 0)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:pause])
            if pause:
                repository.stalled.set()
                repository.go.wait(60)
            self.wfile.write(body[pause:cut])
        with hub.lock:
            hub.sent += len(body if cut is None else body[:cut])
        self.close_connection = cut is not None

    def _fail(self, status: int, code: str) -> None:
        self._body(b'{"error": "no"}', status, {'X-Error-Code': code} if code else {})

    def _body(self, body: bytes, status: int = 200, facts: dict[str, str] | None = None) -> None:
        self._head(status, {**(facts or {}), 'Content-Type': 'application/json', 'Content-Length': str(len(body))})
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _head(self, status: int, facts: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in facts.items():
            self.send_header(name, value)
        self.end_headers()


def _git(body: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(body) + body).hexdigest()


def _digest(repository: Repository, name: str) -> str:
    body = repository.files[name]
    return hashlib.sha256(body).hexdigest() if name in repository.large else _git(body)
