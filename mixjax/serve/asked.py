"""Requests for predictions: their images, and how these are to be answered."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mixjax.errors import nearest
from mixjax.host import untrusted
from mixjax.serve.room import Refused

TOP = 5  # classes
IMAGES, JSON = 'an image', 'JSON'
HOW = (
    'send the bytes of an image with the header Content-Type: image/jpeg (or image/*, application/octet-stream), or '
    'JSON with Content-Type: application/json'
)
KEYS = ('images', 'top', 'why', 'models')
SWITCH = {'1': True, 'true': True, '': True, '0': False, 'false': False}


class Asked(NamedTuple):
    """A request for predictions.

    Attributes:
      images: the bytes of the image files.
      top: how many classes.
      why: whether explanations are wanted.
      models: names of the networks; () for all.
    """

    images: list[bytes]
    top: int
    why: bool
    models: tuple[str, ...]


def kind_of(content_type: str) -> str:
    """Return the kind of a body, `IMAGES` or `JSON`; others, which a page of another site could send, are refused."""
    name = content_type.partition(';')[0].strip().lower()
    if name.startswith('image/') or name == 'application/octet-stream':
        return IMAGES
    if name == 'application/json':
        return JSON
    raise Refused(415, HOW)


def of_image(body: bytes, query: Sequence[tuple[str, str]]) -> Asked:
    """Return what is asked for by the bytes of one image. query: of the address, as ?top=3&why=1&model=NAME."""
    top, why, models = TOP, False, []
    for name, value in query:
        if name == 'top' and value.isascii() and value.isdigit():
            top = int(value[:9])
        elif name == 'why' and value.lower() in SWITCH:
            why = SWITCH[value.lower()]
        elif name == 'model':
            models.append(value)
        else:
            raise Refused(400, 'after ? the address may have top=NUMBER, why=1 and model=NAME')
    return _checked([body], top, why, models)


def of_json(body: bytes) -> Asked:
    """Return what a JSON text asks for: {"images": [base64, ..], "top": 5, "why": false, "models": [name, ..]}."""
    try:
        found = untrusted.parse(body)
    except ValueError as error:
        raise Refused(400, f'the body is not JSON: {_short(str(error))}') from None
    if not isinstance(found, dict) or not isinstance(found.get('images'), list):
        raise Refused(400, 'the JSON must be {"images": [base64, ..], "top": 5, "why": false}')
    for name in found:
        if name not in KEYS:
            hint = nearest(name, KEYS) or f'; it may have {", ".join(KEYS)}'
            raise Refused(400, f'the JSON must not have {_short(name)!r}{hint}')
    top, why, models = found.get('top', TOP), found.get('why', False), found.get('models', [])
    if type(top) is not int or type(why) is not bool:
        raise Refused(400, '"top" must be a whole number, and "why" true or false')
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise Refused(400, '"models" must be a list of names')
    return _checked([_decoded(place, one) for place, one in enumerate(found['images'], 1)], top, why, models)


def _decoded(place: int, text: Any) -> bytes:
    if not isinstance(text, str):
        raise Refused(400, f'image {place} is not a text in base64')
    try:
        return base64.b64decode(text.encode('ascii'), validate=True)
    except (binascii.Error, UnicodeError):
        raise Refused(400, f'image {place} is not base64 (without data:.. in front, and without spaces)') from None


def _checked(images: list[bytes], top: int, why: bool, models: Sequence[str]) -> Asked:
    if not images:
        raise Refused(400, 'the request has no image')
    if top < 1:
        raise Refused(400, f'"top" must be at least 1, not {top}')
    return Asked(images, top, why, tuple(dict.fromkeys(models)))


def chosen(models: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return the networks that a request names, all of them if it names none."""
    for name in names:
        if name not in models:
            raise Refused(
                404, f'there is no network {_short(name)!r}{nearest(name, models)}; there are {", ".join(models)}'
            )
    return [models[name] for name in names] or list(models.values())


def _short(text: str) -> str:
    shown = ''.join(char if char.isprintable() else '?' for char in text)
    return shown if len(shown) <= 100 else f'{shown[:100]}..'
