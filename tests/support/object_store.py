"""A small object store that speaks the JSON interface of Google Cloud Storage, for tests: objects in memory, HTTP.

Enough of it for gcsfs, google-cloud-storage and tensorstore: uploads whole, of two parts and resumable, ranges,
listings by prefix and page, copies, deletions (in batches too) and preconditions on the generation of an object.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

PAGE = 100  # names in a listing's page: few, so that tests of many files meet the second one


class Object(NamedTuple):
    data: bytes
    generation: int


class Store(ThreadingHTTPServer):
    """objects: (bucket, name) -> Object. requests: 'METHOD path' of each, in order.

    refuse: so many requests are answered with 503 before the store works again.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str], Object] = {}
        self.sessions: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}
        self.requests: list[str] = []
        self.generation = 0
        self.refuse = 0

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}'

    @property
    def environment(self) -> dict[str, str]:
        """What tells a process to talk to this store, and not to look for credentials."""
        return {
            'STORAGE_EMULATOR_HOST': self.url,
            'TENSORSTORE_GCS_HTTP_URL': self.url,
            'GCE_METADATA_ROOT': '127.0.0.1:1',
            'NO_GCE_CHECK': 'true',
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # asks a service that is not here
        }

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """An object as somebody else writes it."""
        with self.lock:
            self.generation += 1
            self.objects[bucket, name] = Object(data, self.generation)

    def names(self, bucket: str) -> list[str]:
        with self.lock:
            return sorted(name for inside, name in self.objects if inside == bucket)


@contextlib.contextmanager
def running() -> Iterator[Store]:
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield store
        store.shutdown()


class Answer(Exception):
    """What a request is answered with, where it is not what was asked for."""

    def __init__(self, code: int, text: str = '') -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Store

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # of a client that has gone, or was killed
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self._body()
        store = self.server
        with store.lock:
            store.requests.append(f'{self.command} {self.path}')
            if store.refuse:
                store.refuse -= 1
                self._json({'error': {'code': 503, 'message': 'try again'}}, 503)
                return
            try:
                self._route(self.command, self.path, body)
            except Answer as answer:
                self._json({'error': {'code': answer.code, 'message': answer.text}}, answer.code)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815 (named by http.server)

    def _body(self) -> bytes:
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            data = b''
            while size := int(self.rfile.readline().split(b';')[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))

    def _send(self, data: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _json(self, value: Any, code: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), code, Content_Type='application/json', **headers)

    # --- what is asked for --------------------------------------------------------------------------------------------

    def _route(self, command: str, path: str, body: bytes) -> None:
        parts = urlsplit(path)
        ask = dict(parse_qsl(parts.query, keep_blank_values=True))
        place = parts.path
        if place.startswith('/batch/'):
            self._batch(body)
        elif found := re.fullmatch(r'/(?:upload/|resumable/upload/)storage/v1/b/([^/]+)/o', place):
            self._upload(command, unquote(found[1]), ask, body)
        elif found := re.fullmatch(r'(?:/storage/v1)?/b/([^/]+)', place):
            self._json({'kind': 'storage#bucket', 'name': unquote(found[1]), 'id': unquote(found[1]), 'location': 'US'})
        elif found := re.fullmatch(r'(?:/storage/v1)?/b/([^/]+)/o/?', place):
            self._list(unquote(found[1]), ask)
        elif found := re.fullmatch(r'(?:/storage/v1)?/b/([^/]+)/o/([^/]+)/(rewrite|copy)To/b/([^/]+)/o/([^/]+)', place):
            bucket, name, how, to, new = map(unquote, found.groups())
            self._put(to, new, self._get(bucket, name, {}).data, ask)
            answer = self._about(to, new)
            self._json({'done': True, 'resource': answer} if how == 'rewrite' else answer)
        elif found := re.fullmatch(r'(?:/download)?(?:/storage/v1)?/b/([^/]+)/o/([^/]+)', place):
            bucket, name = map(unquote, found.groups())
            self._object(command, bucket, name, ask)
        else:
            raise Answer(404, f'not understood: {command} {path}')

    def _object(self, command: str, bucket: str, name: str, ask: dict[str, str]) -> None:
        found = self._get(bucket, name, ask)
        if command == 'DELETE':
            del self.server.objects[bucket, name]
            self._send(b'', 204)
        elif ask.get('alt') != 'media':
            self._json(self._about(bucket, name))
        else:
            self._media(found)

    def _media(self, found: Object) -> None:
        data = found.data
        about = {
            'X_Goog_Generation': str(found.generation),
            'X_Goog_Hash': f'crc32c={base64.b64encode(crc32c(data)).decode()}',
        }
        asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
        if not asked or asked.groups() == ('', ''):
            self._send(data, **about)
            return
        if not asked[1]:
            start, stop = max(0, len(data) - int(asked[2])), len(data)
        else:
            start, stop = int(asked[1]), min(len(data), int(asked[2]) + 1 if asked[2] else len(data))
        if start >= len(data):
            raise Answer(416, 'no such range')
        self._send(data[start:stop], 206, Content_Range=f'bytes {start}-{stop - 1}/{len(data)}', **about)

    def _list(self, bucket: str, ask: dict[str, str]) -> None:
        prefix, delimiter = ask.get('prefix', ''), ask.get('delimiter', '')
        found: dict[str, bool] = {}  # name -> whether it is a folder
        for name in self.server.names(bucket):
            if name.startswith(prefix):
                rest, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, '', '')
                found[prefix + rest + cut if cut else name] = bool(cut)
        names = sorted(n for n in found if n >= ask.get('startOffset', '') and n > ask.get('pageToken', ''))
        page = names[: min(int(ask.get('maxResults') or PAGE), PAGE)]
        answer: dict[str, Any] = {
            'kind': 'storage#objects',
            'items': [self._about(bucket, name) for name in page if not found[name]],
            'prefixes': [name for name in page if found[name]],
        }
        if len(page) < len(names):
            answer['nextPageToken'] = page[-1]
        self._json(answer)

    def _upload(self, command: str, bucket: str, ask: dict[str, str], body: bytes) -> None:
        if 'upload_id' in ask:
            self._resume(ask['upload_id'], body)
            return
        name, kind = ask.get('name', ''), ask.get('uploadType')
        if kind == 'multipart':
            about, body = two_parts(self.headers['Content-Type'], body)
            name = name or json.loads(about)['name']
        elif kind == 'resumable':
            name = name or json.loads(body)['name']
            number = f'{len(self.server.sessions)}'
            self.server.sessions[number] = (bucket, name, ask, bytearray())
            where = f'{self.server.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}'
            self._json({}, Location=where)
            return
        self._put(bucket, name, body, ask)
        self._json(self._about(bucket, name))

    def _resume(self, number: str, body: bytes) -> None:
        bucket, name, ask, data = self.server.sessions[number]
        data += body
        total = self.headers.get('Content-Range', '').rpartition('/')[2]
        if total in ('', '*') or len(data) < int(total):
            self._send(b'', 308, Range=f'bytes=0-{len(data) - 1}')
            return
        self._put(bucket, name, bytes(data), ask)
        self._json(self._about(bucket, name))

    def _batch(self, body: bytes) -> None:
        """Deletions, the only thing that is asked for in batches here."""
        mark = b'boundary'
        answers = []
        for number, place in enumerate(re.findall(rb'DELETE (\S+) HTTP', body), 1):
            found = re.search(r'/b/([^/]+)/o/([^?\s]+)', place.decode())
            assert found
            key = unquote(found[1]), unquote(found[2])
            code = '204 No Content' if self.server.objects.pop(key, None) else '404 Not Found'
            text = '' if code.startswith('204') else '{"error": {"code": 404, "message": "none"}}'
            answers.append(
                f'--{mark.decode()}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n'
                f'HTTP/1.1 {code}\r\nContent-Length: {len(text)}\r\n\r\n{text}\r\n'
            )
        text = ''.join(answers) + f'--{mark.decode()}--'
        self._send(text.encode(), Content_Type=f'multipart/mixed; boundary={mark.decode()}')

    # --- objects ------------------------------------------------------------------------------------------------------

    def _get(self, bucket: str, name: str, ask: dict[str, str]) -> Object:
        found = self.server.objects.get((bucket, name))
        if found is None:
            raise Answer(404, f'No such object: {bucket}/{name}')
        self._check(found, ask)
        return found

    def _check(self, found: Object | None, ask: dict[str, str]) -> None:
        now = found.generation if found else 0
        if 'ifGenerationMatch' in ask and int(ask['ifGenerationMatch']) != now:
            raise Answer(412, 'At least one of the pre-conditions you specified did not hold.')
        if 'ifGenerationNotMatch' in ask and int(ask['ifGenerationNotMatch']) == now:
            raise Answer(304)

    def _put(self, bucket: str, name: str, data: bytes, ask: dict[str, str]) -> None:
        self._check(self.server.objects.get((bucket, name)), ask)
        self.server.put(bucket, name, data)

    def _about(self, bucket: str, name: str) -> dict[str, Any]:
        found = self.server.objects[bucket, name]
        return {
            'kind': 'storage#object',
            'bucket': bucket,
            'name': name,
            'id': f'{bucket}/{name}/{found.generation}',
            'size': str(len(found.data)),
            'generation': str(found.generation),
            'metageneration': '1',
            'crc32c': base64.b64encode(crc32c(found.data)).decode(),
            'updated': '2026-01-01T00:00:00.000Z',
            'timeCreated': '2026-01-01T00:00:00.000Z',
            'storageClass': 'STANDARD',
        }


def two_parts(kind: str, body: bytes) -> tuple[bytes, bytes]:
    """What an upload of kind multipart/related says of an object, and the object."""
    found = re.search('boundary="?([^";]+)"?', kind)
    assert found
    about, data = body.split(b'--' + found[1].encode())[1:3]
    ends = b'\r\n' if b'\r\n\r\n' in about else b'\n'
    return tuple(part.split(2 * ends, 1)[1].removesuffix(ends) for part in (about, data))


def crc32c(data: bytes) -> bytes:
    import google_crc32c

    return google_crc32c.Checksum(data).digest()
