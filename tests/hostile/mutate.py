"""Wrong forms of right files: bytes, and the values of JSON."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS = [0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 10**6, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 1e308, 1e-320, float('nan'),
    float('inf'), float('-inf'), '', ' ', 'x', '..', '../../x', '/etc/passwd', 'a\0b', 'a/b', 'C:\\x', '\ud800',
    'a\u202eb', '\u2066x', 'x\u2069\u2068', '\u05e9\u05dc\u05d5\u05dd', '=HYPERLINK("x")', '~/x', '\x9b2J', 'a\rb',
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', '\x1b[2J', '%s%n', '{0}', '0', 'a' * 300, [], {},
    [None], ['x'], [0.5], [[[[]]]], {'': ''}, {'x': {'y': []}}, [1, 2, 3], ['<b>', '&lt;'], 'os.system', 'this.that',
]  # fmt: skip


def flawed(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """`data` with one to eight faults."""
    out = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 2, 4, 8))):
        _fault(out, random_, others)
    return bytes(out)


def _fault(out: bytearray, random_: random.Random, others: list[bytes]) -> None:
    at = random_.randrange(len(out) + 1)
    # The beginnings of files say what the rest is.
    at = min(at, random_.randrange(64)) if random_.random() < 0.4 else at
    kind = random_.randrange(9)
    if kind == 0 and out:
        out[min(at, len(out) - 1)] ^= 1 << random_.randrange(8)
    elif kind == 1 and out:
        out[min(at, len(out) - 1)] = random_.randrange(256)
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + random_.choice((1, 2, 4, 16, 256))]
    elif kind == 4:
        out[at:at] = random_.randbytes(random_.choice((1, 2, 4, 16, 64)))
    elif kind == 5:
        length = random_.choice((2, 4, 8))
        number = random_.choice(NUMBERS) % (1 << 8 * length)
        out[at : at + length] = number.to_bytes(length, random_.choice(('little', 'big')))
    elif kind == 6:
        out[at:at] = out[at : at + random_.choice((4, 32, 512))] * random_.choice((1, 2, 8))
    elif kind == 7:
        other = random_.choice(others)
        begin = random_.randrange(len(other) + 1)
        out[at : at + 64] = other[begin : begin + 64]
    else:
        out[at : at + 8] = b'\0' * 8


def flawed_json(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """JSON with one to four other values in it; at times no JSON any more."""
    if random_.random() < 0.2:
        return flawed(data, random_, others)
    tree = json.loads(data)
    for _ in range(random_.choice((1, 1, 2, 4))):
        tree = _altered(tree, random_)
    text = json.dumps(tree)
    if random_.random() < 0.02:
        text = text.replace('{', '[' * 200_000 + '{', 1)
    return text.encode('utf-8', 'surrogatepass')


def flawed_lines(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """Lines of JSON, some of them flawed."""
    lines = data.splitlines()
    for k in random_.sample(range(len(lines)), random_.randrange(1, 4)):
        lines[k] = flawed_json(lines[k], random_, [lines[0]]) if random_.random() < 0.8 else lines[k][: k % 7]
    return b'\n'.join(lines) + b'\n'


def _altered(tree: Any, random_: random.Random) -> Any:
    """One value replaced, taken out, renamed, or put in."""
    if not isinstance(tree, dict | list) or not tree or random_.random() < 0.15:
        return random_.choice(VALUES)
    if isinstance(tree, list):
        k = random_.randrange(len(tree))
        if random_.random() < 0.15:
            return tree[:k] + tree[k + 1 :] if random_.random() < 0.5 else [*tree, random_.choice(VALUES)]
        return [_altered(item, random_) if i == k else item for i, item in enumerate(tree)]
    key = random_.choice(list(tree))
    chance = random_.random()
    if chance < 0.1:
        return {name: value for name, value in tree.items() if name != key}
    if chance < 0.2:
        new = random_.choice([value for value in VALUES if isinstance(value, str)])
        return {new if name == key else name: value for name, value in tree.items()}
    return {name: _altered(value, random_) if name == key else value for name, value in tree.items()}
