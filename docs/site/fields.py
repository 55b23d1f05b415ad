"""A Griffe extension: descriptions of fields and arguments in the project's docstrings become sections.

A NamedTuple or dataclass describes its fields as `name: text`, several to a line where they are short:

    logits: one array for each head. features: (B, d), the pooled map.

and a record of functions as a call with an indented description:

    loss(net, params, ctx) -> (scalar, Aux)
        Differentiated with respect to `params`.

Both become an `Attributes:` section. In functions `a, b: (B, c)` of `Args:` becomes two entries, and `Example:` is
`Examples:`, the only one of the two that Griffe parses.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Fields(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Write `Examples:` for `Example:`, and `:` for the `::` of reStructuredText."""
        if obj.docstring:
            value = re.sub(r'^Example:$', 'Examples:', obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r'::$', ':', value, flags=re.MULTILINE)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Turn the descriptions of a class's fields into `Attributes:`."""
        names = [name for name, member in cls.members.items() if member.is_attribute and not name.startswith('_')]
        if cls.docstring and names and 'Attributes:' not in cls.docstring.value:
            cls.docstring.value = sections(cls.docstring.value, names, 'Attributes')

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Give each argument an entry of its own."""
        if func.docstring is None:
            return
        if func.returns is not None:
            # Griffe takes what stands before a colon for the type: let it be the annotation.
            typed = f'\\g<0>{func.returns}: '
            func.docstring.value = re.sub(r'^Returns:\n\s+', typed, func.docstring.value, count=1, flags=re.MULTILINE)
        names = [p.name for p in func.parameters if p.name not in ('self', 'cls')]
        if re.search(r'^Args:$', func.docstring.value, re.MULTILINE):
            func.docstring.value = arguments(func.docstring.value, names)
        elif names:
            func.docstring.value = sections(func.docstring.value, names, 'Args')


def starts(line: str, names: list[str]) -> bool:
    """Whether a line begins the description of one of these names, or of several."""
    match = re.match(r'([a-z_]\w*(?:, [a-z_]\w*)*)(?:\(.*\) -> .*|:(?: .*)?)$', line)
    return match is not None and set(match[1].split(', ')) <= set(names)


def entries(text: str, names: list[str]) -> list[tuple[str, str]]:
    """(name, description) of a paragraph such as `a, b: text. c: text`."""
    called = re.match(r'(\w+)(\(.*\) -> .*?)(?:\n(.*))?$', text, re.DOTALL)
    if called and called[1] in names:
        return [(called[1], f'`{called[1]}{called[2]}` {" ".join((called[3] or "").split())}'.strip())]
    known = '|'.join(map(re.escape, names))
    pieces = re.split(rf'(?:(?<=^)|(?<=[.;] )|(?<=[.;]\n))((?:{known})(?:, (?:{known}))*)(\(.*?\))?: ', text)
    found = []
    for i in range(1, len(pieces) - 2, 3):
        call = f'`{pieces[i]}{pieces[i + 1]}`: ' if pieces[i + 1] else ''
        said = call + ' '.join(pieces[i + 2].split())
        found += [(name, said) for name in pieces[i].split(', ')]
    return found


def sections(value: str, names: list[str], title: str) -> str:
    """A docstring whose paragraphs of fields are gathered under a heading."""
    kept: list[str] = []
    described: list[tuple[str, str]] = []
    block: list[str] | None = None

    def close() -> None:
        nonlocal block
        if block:
            described.extend(entries('\n'.join(block), names))
        block = None

    for line in value.splitlines():
        if starts(line, names) or re.match(r'([a-z_]\w*)\([^)]*\): ', line) and line.split('(')[0] in names:
            close()
            block = [line]
        elif block is not None and line.strip() and line.startswith(' '):
            block.append(line.strip())
        elif block is not None and line.strip() and not block[-1].rstrip().endswith(('.', ')', ':')):
            block.append(line)
        else:
            close()
            kept.append(line)
    close()
    if not described:
        return value
    lines = [f'{title}:', *(f'    {name}: {said}' for name, said in described)]
    return '\n'.join(kept).rstrip() + '\n\n' + '\n'.join(lines)


def arguments(value: str, names: list[str]) -> str:
    """A docstring whose `Args:` has one entry for each argument, where some share one."""
    head, rest = re.split(r'^Args:\n', value, maxsplit=1, flags=re.MULTILINE)
    body = re.match(r'(?:(?:[ \t]+.*)?(?:\n|$))*?(?=\S|\Z)', rest)
    assert body
    lines: list[str] = []
    for line in body[0].splitlines():
        indent = len(line) - len(line.lstrip())
        many = re.match(r'\s*(\w+(?:, \w+)+): (.*)$', line)
        known = '|'.join(map(re.escape, names)) or '$'
        parts = re.split(rf'(?<=[.;] )((?:{known})): ', line) if starts(line.strip(), names) else [line]
        if many and set(many[1].split(', ')) <= set(names):
            lines += [f'{" " * indent}{name}: {many[2]}' for name in many[1].split(', ')]
        elif len(parts) > 1:
            lines.append(parts[0])
            lines += [f'{" " * indent}{parts[i]}: {parts[i + 1]}' for i in range(1, len(parts) - 1, 2)]
        else:
            lines.append(line)
    return f'{head}Args:\n' + '\n'.join(lines) + '\n\n' + rest[body.end() :]
