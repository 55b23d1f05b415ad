"""A command line as data: commands and their flags as values, and what is made of them: parsed words and help.

It knows no command; `mixjax/commands/table.py` lists them. Nothing here is imported but the standard library, so that
`--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mixjax.errors import UserError, nearest

WIDTH = 80  # columns of the help
COLUMN = 30  # at most so far to the right begins the text about a flag


class Flag(NamedTuple):
    """A flag `--name=METAVAR`; without a metavar a switch, `--name`.

    Attributes:
      name: with dashes; on a command line underscores are the same.
      help: what it is for; the default is added.
      metavar: what stands for the value.
      type: `str`, `int`, or a function of the text that raises `ValueError` with what the value must be.
      default: the value where the flag is not given.
      required: whether it must be given, and not be empty.
      repeated: whether it may be given several times, each with one value or several with commas; its value is
        the tuple of all.
      choices: the values there are, if they are few.
      least: the smallest number.
      configs: whether its value is a config, which completion knows the names of.
      alone: whether nothing else is required beside it.
      group: the heading that it stands under in the help.
    """

    name: str
    help: str
    metavar: str = ''
    type: Callable[[str], Any] = str
    default: Any = ''
    required: bool = False
    repeated: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None
    configs: bool = False
    alone: bool = False
    group: str = ''

    @property
    def switch(self) -> bool:
        return not self.metavar

    @property
    def usage(self) -> str:
        return f'--{self.name}' if self.switch else f'--{self.name}={self.metavar}'


class Positional(NamedTuple):
    """The words of a command that belong to no flag: at least and at most how many (None: any number)."""

    metavar: str
    help: str
    least: int = 0
    most: int | None = None
    choices: tuple[str, ...] = ()
    configs: bool = False

    @property
    def usage(self) -> str:
        name = self.metavar if self.most == 1 else f'{self.metavar} ..'
        return name if self.least else f'[{name}]'


HELP = Flag('help', 'print this text')


class Command(NamedTuple):
    """A command `mixjax NAME`.

    Attributes:
      name: the word after `mixjax`.
      summary: one line, in the list of commands.
      run: `module:function` that is called with the `Arguments`, and imported not before; it returns the exit code.
      examples: command lines.
      flags: all but `--help`, which every command has.
      positional: the words that belong to no flag, where it takes such.
      settings: whether `--config.KEY=VALUE` is taken.
      check: raises `UserError` where flags do not go together.
      details: paragraphs of the help.
      exits: a paragraph on the exit codes.
      resume: the hint that is printed if the user interrupts it.
    """

    name: str
    summary: str
    run: str
    examples: tuple[str, ...]
    flags: tuple[Flag, ...]
    positional: Positional | None = None
    settings: bool = False
    check: Callable[[Arguments], None] | None = None
    details: str = ''
    exits: str = 'Exit codes: 0 done, 2 wrong input (one message says what to do).'
    resume: str = ''


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The parsed words of a command line.

    Attributes:
      values: of every flag by its name, what was given or its default; read by `arguments['workdir']`.
      positional: the words that belong to no flag.
      overrides: (key, value) of each `--config.KEY=VALUE`, in order.
      given: the flags of the command line, as text and in order; repeated ones joined by commas.
    """

    values: dict[str, Any]
    positional: list[str]
    overrides: list[tuple[str, str]]
    given: dict[str, str]

    def __getitem__(self, flag: str) -> Any:
        return self.values[flag]


def names(text: str) -> tuple[str, ...]:
    """The `type` of a flag whose value is several names with commas."""
    return tuple(word.strip() for word in text.split(',') if word.strip())


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether `--help` or `-h` is among the flags."""
    return any(word in ('--help', '-h') for word in words[: words.index('--') if '--' in words else None])


def parse(command: Command, words: Sequence[str]) -> Arguments:
    """Parse the words after `mixjax NAME`; raises `UserError` where they are wrong.

    `--flag=value` and `--flag value` are the same, and so are `--data-dir` and `--data_dir`. After `--` no word is a
    flag. What `config.analyse` says is parsed here too, so nothing is printed, and `--help` is not special.
    """
    hint = f'(see mixjax {command.name} --help)'
    flags = {flag.name: flag for flag in command.flags}
    given: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    positional: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == '--':
            positional += queue
            break
        if not word.startswith('-') or word == '-':
            positional.append(word)
            continue
        typed, equals, value = word.partition('=')
        setting = command.settings and typed.startswith('--config.')
        name = typed.removeprefix('--').replace('_', '-')
        flag = flags.get(name) if typed.startswith('--') else None
        if flag is None and not setting:
            raise UserError(f'unknown flag {short(typed)}{nearest(name, [*flags, HELP.name])} {hint}')
        if flag is not None and flag.switch:
            if equals:
                raise UserError(f'--{name} takes no value')
            given[name] = ''
            continue
        if not equals:
            if not queue or queue[0].startswith('--'):
                raise UserError(f'{typed} needs a value: {typed}=VALUE')
            value = queue.pop(0)
        if flag is None:
            overrides.append((typed.removeprefix('--config.'), value))
        elif name not in given:
            given[name] = value
        elif flag.repeated:
            given[name] = f'{given[name]},{value}'
        else:
            raise UserError(f'--{name} is given twice')
    _check_positional(command, positional, hint)
    values = {flag.name: _value(flag, given.get(flag.name)) for flag in command.flags}
    arguments = Arguments(values, positional, overrides, given)
    if any(flag.alone and flag.name in given for flag in command.flags):
        return arguments
    for flag in command.flags:
        if flag.required and not given.get(flag.name):
            raise UserError(f'--{flag.name} is missing {hint}')
    about = command.positional
    if about is not None and len(positional) < about.least:
        wanted = f'one {about.metavar}, not 0' if about.most == 1 else f'at least one {about.metavar}'
        raise UserError(f'give {wanted} {hint}')
    if command.check is not None:
        command.check(arguments)
    return arguments


def _check_positional(command: Command, found: Sequence[str], hint: str) -> None:
    about = command.positional
    if about is None:
        if found:
            raise UserError(f'unexpected {short(found[0])!r}: settings are written --name=value {hint}')
        return
    if about.most is not None and len(found) > about.most:
        raise UserError(f'give one {about.metavar}, not {len(found)} {hint}')
    for word in found:
        if about.choices and word not in about.choices:
            raise UserError(f'{about.metavar} must be {either(about.choices)}, not {short(word)!r}')


def _value(flag: Flag, text: str | None) -> Any:
    """The value of a flag that is given as `text`, or not given."""
    if flag.switch:
        return text is not None
    if flag.repeated:
        return names(text or '')
    if text is None:
        return flag.default
    if flag.choices and text not in flag.choices:
        wanted = f'{flag.choices[0]}, or left out' if len(flag.choices) == 1 else either(flag.choices)
        raise UserError(f'--{flag.name} must be {wanted}, not {short(text)!r}{nearest(text, flag.choices)}')
    if flag.type is not int:
        return flag.type(text)
    if not re.fullmatch('-?[0-9]{1,18}', text):
        raise UserError(f'--{flag.name} must be a whole number, not {short(text)!r}')
    number = int(text)
    if flag.least is not None and number < flag.least:
        raise UserError(f'--{flag.name} must be at least {flag.least}, not {number}')
    return number


def short(text: str) -> str:
    """Shorten typed text for a message."""
    return text if len(text) <= 60 else f'{text[:60]}..'


def either(choices: Sequence[str]) -> str:
    """`a, b or c`."""
    return ' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))


# --- help -------------------------------------------------------------------------------------------------------------


def overview(commands: Sequence[Command], version: str) -> str:
    """Return the text of `mixjax --help`."""
    width = max(len(command.name) for command in commands)
    return '\n'.join([
        f'mixjax {version}: transfer learning and mixup in JAX/Flax',
        '',
        'usage: mixjax COMMAND --flag=value ..',
        '',
        *(f'  {command.name:{width}}  {command.summary}' for command in commands),
        '',
        'mixjax COMMAND --help    the flags of a command, and an example',
        'mixjax --version         the version',
    ])  # fmt: skip


def help_text(command: Command) -> str:
    """Return the text of `mixjax NAME --help`."""
    taken: list[tuple[str, str, str]] = []  # (group, what is typed, what it is)
    if command.positional is not None:
        taken.append(('', command.positional.metavar, command.positional.help))
    for flag in command.flags:
        default = ','.join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
        shown = '' if flag.switch or default == '' else f' (default {default})'
        taken.append((flag.group, flag.usage, f'{flag.help}{shown}'))
    if command.settings:
        taken.append(
            ('', '--config.KEY=VALUE', 'change one setting of the config, such as --config.seed=7; may be repeated')
        )
    taken.append(('', HELP.usage, HELP.help))
    column = min(max(len(typed) for _, typed, _ in taken) + 4, COLUMN)
    parts = [f'{command.summary[0].upper()}{command.summary[1:]}.', f'usage: {usage(command)}']
    for group in dict.fromkeys(group for group, _, _ in taken):
        rows = '\n'.join(_row(typed, text, column) for own, typed, text in taken if own == group)
        parts.append(f'{_paragraph(group)}\n{rows}' if group else rows)
    parts += [_paragraph(text) for text in command.details.split('\n\n') if text]
    heading = 'example' if len(command.examples) == 1 else 'examples'
    parts.append('\n'.join([f'{heading}:', *(f'  {line}' for line in command.examples)]))
    parts.append(_paragraph(command.exits))
    return '\n\n'.join(parts)


def usage(command: Command) -> str:
    """`mixjax predict [IMAGE ..] --workdir=DIR [flags]`."""
    words = [command.positional.usage] if command.positional else []
    words += [flag.usage for flag in command.flags if flag.required]
    words += ['[flags]'] if any(not flag.required for flag in command.flags) else []
    return ' '.join(['mixjax', command.name, *words])


def _row(typed: str, text: str, column: int) -> str:
    """One flag; a long one has a separate line."""
    indent = ' ' * column
    first = f'  {typed}'.ljust(column) if len(typed) + 4 <= column else f'  {typed}\n{indent}'
    return first + textwrap.fill(text, WIDTH - column, break_on_hyphens=False).replace('\n', f'\n{indent}')


def _paragraph(text: str) -> str:
    """A paragraph that is filled, unless its lines are indented: such a table stays as it is."""
    return text if text.startswith('  ') else textwrap.fill(text, WIDTH, break_on_hyphens=False)
