"""The routes of a server: a page, predictions, and what a machine wants to know of it.

    GET  /          the page, with /page.css and /page.js
    POST /predict   an image or JSON -> predictions as JSON
    GET  /models    the networks, and the limits of a request
    GET  /health    whether it answers
    GET  /metrics   numbers for Prometheus

Every answer that is no success is {"error": one sentence}.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from h11 import LocalProtocolError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixjax.analysis import explain
from mixjax.data.pixels import image_header, photo
from mixjax.data.pixels.memory import OutOfMemory
from mixjax.report import style
from mixjax.serve import asked as asking
from mixjax.serve import metrics as metrics_lib
from mixjax.serve.access import Access
from mixjax.serve.asked import Asked
from mixjax.serve.metrics import Metrics
from mixjax.serve.room import Limits, Refused, Room, Ticket
from mixjax.serve.served import Prepared, Served
from mixjax.version import __version__

# Nothing is fetched from elsewhere, no text in the page is run, and no other page may hold it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
READ = 'mixjax.read'  # of a scope: the whole request has arrived
HEADERS = {
    'Content-Security-Policy': POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Permissions-Policy': 'camera=(self), microphone=(), geolocation=()',
    'Cache-Control': 'no-store',
}


class Service(NamedTuple):
    """Everything that a server answers with.

    Attributes:
      models: the networks, by their names.
      limits: of requests.
      access: who may ask.
      metrics: its numbers.
      room: what the requests of the moment hold.
      pool: threads that decode and draw.
    """

    models: Mapping[str, Served]
    limits: Limits
    access: Access
    metrics: Metrics
    room: Room
    pool: Executor


def make(service: Service) -> ASGIApp:
    """Return the application of a server."""
    texts = {
        '/': ('text/html', file('page.html')),
        '/page.css': ('text/css', style.sheet() + file('page.css')),
        '/page.js': ('text/javascript', file('page.js')),
    }

    async def text(request: Request) -> Response:
        kind, content = texts[request.url.path]
        return Response(content, media_type=kind)

    async def answer(request: Request) -> Response:
        return JSONResponse(await predict(service, request))

    async def models(request: Request) -> Response:
        del request
        limits = service.limits
        told = {'bytes': limits.body, 'pixels': limits.pixels, 'images': limits.images}
        return JSONResponse({'models': [model.about() for model in service.models.values()], 'limits': told})

    async def health(request: Request) -> Response:
        del request
        if not all(model.alive for model in service.models.values()):
            raise Refused(503, 'a network does not answer any more; restart the server')
        return JSONResponse({'status': 'ok', 'version': __version__})

    async def numbers(request: Request) -> Response:
        del request
        return Response(service.metrics.text(gauges(service)), media_type=metrics_lib.TYPE)

    routes = [
        *(Route(path, text, methods=['GET']) for path in texts),
        Route('/predict', answer, methods=['POST']),
        Route('/models', models, methods=['GET']),
        Route('/health', health, methods=['GET']),
        Route('/metrics', numbers, methods=['GET']),
    ]
    paths = [route.path for route in routes]
    handlers: dict[Any, Any] = {
        404: _lost, 405: _lost, Refused: _refused, ClientDisconnect: _gone, Exception: _mistaken,
    }  # fmt: skip
    return Guard(Starlette(routes=routes, exception_handlers=handlers), service, paths)


def file(name: str) -> str:
    """Return the text of one of the page's files."""
    return (resources.files('mixjax.serve') / name).read_text('utf-8')


def gauges(service: Service) -> dict[str, tuple[str, Callable[[], float]]]:
    """Return what `GET /metrics` asks for at that moment: {name: (help, function)}."""
    models = service.models.values()
    return {
        'mixjax_requests_in_flight': ('Requests without an answer yet.', lambda: service.metrics.in_flight),
        'mixjax_queue_images': ('Images that wait for a network.', lambda: sum(model.waiting for model in models)),
        'mixjax_taken_images': ('Images of all requests in flight.', lambda: service.room.images),
        'mixjax_taken_images_limit': ('The most of them; more are refused by 503.', lambda: service.limits.queue),
        'mixjax_taken_bytes': ('Bytes of all requests in flight.', lambda: service.room.bytes),
    }


async def _lost(request: Request, error: Exception) -> Response:
    """Answer to a path or a method that does not exist."""
    status = getattr(error, 'status_code', 404)
    what = f'{request.url.path[:100]!r} is not a path of this server; there are /, /predict, /models, /health, /metrics'
    sentence = what if status == 404 else f'{request.method[:20]} is not a method of this path'
    return JSONResponse({'error': sentence}, status, headers=getattr(error, 'headers', None))


async def _refused(request: Request, error: Refused) -> Response:
    del request
    return error_response(error)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    """Answer to a client that has gone: nobody reads it, and it is counted as other servers do."""
    del request, error
    return Response(status_code=499)


async def _mistaken(request: Request, error: Exception) -> Response:
    del request, error  # `Guard` prints it
    return error_response(Refused(500, 'the server made a mistake, which its output shows'))


def error_response(error: Refused) -> Response:
    """Return the answer to a request that is refused."""
    return JSONResponse({'error': error.sentence}, error.status, headers=error.headers)


# --- around every request ---------------------------------------------------------------------------------------------


class Guard:
    """The frame of every request: who may ask, how long it may take, what is counted, and what goes wrong.

    It is pure ASGI: a request is answered by `app`, or by one sentence.
    """

    def __init__(self, app: ASGIApp, service: Service, paths: list[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            return
        began, metrics, status = time.monotonic(), self._service.metrics, 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message['headers'] = [*message.get('headers', ()), *own]
            # What came after the head was no HTTP: the client has been told so, and the connection is closed.
            with contextlib.suppress(LocalProtocolError):
                await send(message)

        metrics.in_flight += 1
        try:
            refused = await self._attempt(scope, receive, sent)
            if refused is not None and not status:
                await error_response(refused)(scope, receive, sent)
        finally:
            metrics.in_flight -= 1
            path = scope['path'] if scope['path'] in self._paths else 'other'
            metrics.request(path, status, time.monotonic() - began)

    async def _attempt(self, scope: Scope, receive: Receive, send: Send) -> Refused | None:
        """Answer a request; returns why it is refused, if that is still to be sent."""
        seconds = self._service.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                names = [(name.decode('latin-1').lower(), value.decode('latin-1')) for name, value in scope['headers']]
                self._service.access.check(scope['path'], dict(names))
                await self._app(scope, receive, send)
        except Refused as error:
            return error
        except TimeoutError:
            if scope.get(READ):
                return Refused(504, f'the answer took longer than {seconds:g} seconds; send smaller images, or fewer')
            return Refused(408, f'the request did not arrive within {seconds:g} seconds', Connection='close')
        except Exception as error:  # a mistake of ours, which has been answered; the server goes on
            traceback.print_exception(error, file=sys.stderr)
        return None


# --- predictions ------------------------------------------------------------------------------------------------------


async def predict(service: Service, request: Request) -> dict[str, Any]:
    """Answer `POST /predict`."""
    began = time.monotonic()
    kind = asking.kind_of(request.headers.get('content-type', ''))
    ticket = service.room.ticket()
    try:
        body = await read_body(request, ticket)
        if kind == asking.JSON:
            asked = await _in_pool(service, asking.of_json, body)
        else:
            asked = asking.of_image(body, request.query_params.multi_items())
        models = asking.chosen(service.models, asked.models)
        ticket.take_images(len(asked.images))
    except BaseException:
        ticket.close()
        raise
    request.scope[READ] = True
    gone, futures = asyncio.Event(), []
    # Threads cannot be stopped: what they hold is given back when they have ended, also if nobody waits any more.
    work = asyncio.create_task(answers(service, asked, models, gone, futures))
    work.add_done_callback(lambda done: (ticket.close(), done.cancelled() or done.exception()))
    try:
        found = await asyncio.shield(work)
    except asyncio.CancelledError:
        gone.set()
        for future in futures:
            future.cancel()
        raise
    return {'images': found, 'seconds': round(time.monotonic() - began, 4)}


async def read_body(request: Request, ticket: Ticket) -> bytes:
    """Read the body of a request, as far as there is room for it."""
    length = request.headers.get('content-length', '')
    if length.isascii() and length.isdigit():
        ticket.check_bytes(int(length[:18]))
    body = bytearray()
    async for part in request.stream():
        ticket.take_bytes(len(part))
        body += part
    return bytes(body)


async def answers(
    service: Service, asked: Asked, models: list[Served], gone: asyncio.Event, futures: list[Future]
) -> list[dict[str, Any]]:
    """Return the answer for each image: {'models': [of each network]}.

    Args:
      service: the server.
      asked: the images.
      models: the networks that are asked.
      gone: set when nobody waits for the answer any more.
      futures: is given those of the images in the queues.
    """
    prepared = await _all([
        _in_pool(service, prepare, data, place if len(asked.images) > 1 else 0, asked.why, models, service.limits)
        for place, data in enumerate(asked.images, 1)
    ])  # fmt: skip
    if gone.is_set():
        return []
    pairs = [(model, one) for image in prepared for model, one in zip(models, image, strict=True)]
    futures += [model.submit(one.job) for model, one in pairs]
    seen = await _all([asyncio.wrap_future(future) for future in futures])
    found = await _all([
        _in_pool(service, model.answer, one, values, asked.top)
        for (model, one), values in zip(pairs, seen, strict=True)
    ])  # fmt: skip
    return [{'models': found[start : start + len(models)]} for start in range(0, len(found), len(models))]


async def _all(waiting: list[Awaitable[Any]]) -> list[Any]:
    """Return all results; after an error, only when all others have ended too."""
    found = await asyncio.gather(*waiting, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def _in_pool(service: Service, function: Callable[..., Any], *given: Any) -> Awaitable[Any]:
    return asyncio.get_running_loop().run_in_executor(service.pool, partial(function, *given))


def prepare(data: bytes, place: int, why: bool, models: list[Served], limits: Limits) -> list[Prepared]:
    """Decode an image and prepare it for each network.

    Args:
      data: the bytes of its file.
      place: its place in the request, for messages; 0 for the only one.
      why: whether explanations are wanted.
      models: the networks.
      limits: of the server.
    """
    which = f'image {place}: ' if place else ''
    try:
        pixels = decode(data, limits.pixels)
    except photo.Unreadable as error:
        raise Refused(422, f'{which}{error}') from None
    except Refused as error:
        error.sentence = f'{which}{error.sentence}'
        raise
    return [model.prepare(pixels, why) for model in models]


def decode(data: bytes, most: int) -> np.ndarray:
    """Decode an image of at most so many pixels."""
    try:
        area = image_header.read_header(data, photo.FORMATS).area if data else 0
    except image_header.Fault:
        area = 0  # it is refused below
    if area > most:
        raise Refused(413, f'it has {area:,} pixels, and an image may have {most:,}; make it smaller')
    try:
        return explain.read_pixels(data)
    except OutOfMemory:
        raise Refused(
            503, 'there is too little memory for it at this moment; try again in a second', Retry_After='1'
        ) from None
