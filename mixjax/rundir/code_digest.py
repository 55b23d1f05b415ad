"""Digests of the source code that a run executes besides mixjax itself: its method, and the modules it imports.

Installed packages and mixjax are left out; their versions are in `env.json`. Imports are found in the source, also
those inside of functions, and nothing is imported to find them.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import hashlib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from mixjax.errors import UserError

Spec = importlib.machinery.ModuleSpec
UNKNOWN = 'unknown'  # the digest of unreadable code; it is equal to every other
INSTALLED = ('site-packages', 'dist-packages')
LIBRARY = tuple({Path(sysconfig.get_path(name)).resolve() for name in ('stdlib', 'platstdlib')})


class Source(NamedTuple):
    """A module's file: its digest, and the names of the modules that it may import."""

    digest: str
    imports: tuple[str, ...]


# Source of loaded modules when it was first read: a file that is edited afterwards is not the code that runs.
_loaded: dict[str, tuple[Spec, Source]] = {}


def digests(roots: Iterable[str]) -> dict[str, str]:
    """Return {module: digest} of modules, and of the modules they import, unless installed or of mixjax."""
    queue, out = [name for root in roots for name in _with_packages(root)], {}
    packages = {name.partition('.')[0] for name in queue}  # a method may be in a separate installed package
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name.partition('.')[0] == 'mixjax':
            continue
        seen.add(name)
        spec, module = _spec(name), sys.modules.get(name)
        path = _path(spec)
        if path is None:
            if spec is None and module is not None:
                out[name] = _of_objects(module)
            continue
        if _installed(path) and name.partition('.')[0] not in packages:
            continue
        assert spec is not None
        source = _source(name, spec, path)
        out[name] = source.digest
        queue += source.imports
        queue += _held(module) if module is not None else []
    return dict(sorted(out.items()))


def of_function(name: str, function: Callable[..., Any]) -> dict[str, str]:
    """{name: digest} of a function that was made in memory, such as in a notebook, and of the modules that it uses.

    The digest is of the function and of all that it reaches by name and that is in the same place: other functions,
    classes and plain values.
    """
    seen: dict[str, str] = {}
    modules: list[str] = []
    queue: list[tuple[str, Any]] = [('', function)]
    home = (function.func if isinstance(function, functools.partial) else function).__module__
    while queue:
        where, value = queue.pop()
        value = value.func if isinstance(value, functools.partial) else value
        if where in seen:
            continue
        if isinstance(value, ModuleType):
            modules.append(value.__name__)
        elif isinstance(value, FunctionType | type) and value.__module__ != home:
            modules += [value.__module__] if isinstance(value.__module__, str) else []
        elif isinstance(value, FunctionType):
            seen[where] = f'{_plain(value.__defaults__)} {_plain(value.__kwdefaults__)} {_of_bytecode(value.__code__)}'
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            known = {**value.__globals__, **{cell: held.cell_contents for cell, held in cells if _is_set(held)}}
            queue += [(one, known[one]) for one in sorted(_names(value.__code__)) if one in known]
            modules += _imported(value.__code__)
        elif isinstance(value, type):
            seen[where] = 'class'
            queue += [(f'{where}.{key}', member) for key, member in sorted(vars(value).items()) if key[:2] != '__']
        else:
            seen[where] = _plain(value)
    paths = {name: _path(_spec(name)) for name in modules}
    own = [name for name, path in paths.items() if path is None or not _installed(path)]
    python = f'bytecode of Python {sys.version_info[0]}.{sys.version_info[1]}'
    return {name: f'{python} {hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()}', **digests(own)}


def _names(code: CodeType) -> set[str]:
    """The names that a function and the functions in it look up."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*inner)


def _imported(code: CodeType) -> list[str]:
    """The modules that a function and the functions in it import."""
    own = [one.argval for one in dis.get_instructions(code) if one.opname == 'IMPORT_NAME' and one.argval]
    return own + [name for one in code.co_consts if isinstance(one, CodeType) for name in _imported(one)]


def _is_set(cell: CellType) -> bool:
    """Return whether a variable of an outer function has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def where(name: str) -> str:
    """Return the file of a module, for messages; its name if there is none."""
    return str(_path(_spec(name)) or name)


def _spec(name: str) -> Spec | None:
    """Return the spec with which a module is, or would be, imported; None if it does not exist."""
    if name in sys.modules:  # an entry may not be a module, and is None if a module must not be imported
        return getattr(sys.modules[name], '__spec__', None)
    parent, path = name.rpartition('.')[0], None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        with contextlib.suppress(AttributeError, ImportError, ValueError):  # other people's finders
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


def _path(spec: Spec | None) -> Path | None:
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _installed(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    path = path.resolve()
    return any(part in INSTALLED for part in path.parts) or any(path.is_relative_to(one) for one in LIBRARY)


def _source(name: str, spec: Spec, path: Path) -> Source:
    known = _loaded.get(name)
    if known is not None and known[0] is spec:
        return known[1]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'the source of module {name}, {path}, cannot be read: {error.strerror}') from error
    if path.suffix == '.py':
        data = data.replace(b'\r\n', b'\n')
        package = name if spec.submodule_search_locations is not None else name.rpartition('.')[0]
        found = Source(hashlib.sha256(data).hexdigest(), tuple(sorted(set(_imports(data, package)))))
    else:
        found = Source(hashlib.sha256(data).hexdigest(), ())
    if name in sys.modules:
        _loaded[name] = spec, found
    return found


def _imports(data: bytes, package: str) -> Iterator[str]:
    """Return the modules that a source may import, with the packages that contain them."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):  # the import reports it
        return
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) + 1 - node.level] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            names = [base, *(f'{base}.{alias.name}' for alias in node.names)]
        for name in names:
            yield from _with_packages(name)


def _held(module: ModuleType) -> list[str]:
    """Return the modules in a module's variables, including those imported by a name in a string.

    A package has as variables all its modules that were imported anywhere; these are not imports of the package.
    """
    names = [value.__name__ for value in vars(module).values() if isinstance(value, ModuleType)]
    return [name for name in names if not name.startswith(f'{module.__name__}.')]


def _with_packages(name: str) -> list[str]:
    """Return a module's name, after those of the packages that contain it: importing it runs them all."""
    parts = name.split('.')
    return ['.'.join(parts[: k + 1]) for k in range(len(parts)) if all(parts)]


# --- modules without a file -------------------------------------------------------------------------------------------


def may_be_same(one: str, other: str) -> bool:
    """Return whether two digests may be of the same code. Bytecode of two versions of Python cannot be compared."""
    kinds = {digest.rpartition(' ')[0] for digest in (one, other)}
    return one == other or UNKNOWN in (one, other) or len(kinds) > 1


def _of_objects(module: ModuleType) -> str:
    """Return a digest of the functions and plain values of a module that was made in memory, such as in a notebook."""
    out, found = hashlib.sha256(), False
    for name, value in sorted(vars(module).items()):
        members = vars(value).items() if isinstance(value, type) and value.__module__ == module.__name__ else ()
        for inner, one in [(name, value), *sorted(members)]:
            if isinstance(one, FunctionType):
                found = True
                out.update(f'{name}.{inner} {_plain(one.__defaults__)} {_plain(one.__kwdefaults__)}'.encode())
                out.update(_of_bytecode(one.__code__).encode())
            elif isinstance(one, bool | int | float | str | tuple) and not inner.startswith('__'):
                out.update(f'{name}.{inner}={_plain(one)}'.encode())
    if not found:
        return UNKNOWN
    return f'bytecode of Python {sys.version_info[0]}.{sys.version_info[1]} {out.hexdigest()}'


def _plain(value: Any) -> str:
    """Return a value as text without the addresses of objects."""
    if isinstance(value, tuple):
        return f'({",".join(map(_plain, value))})'
    if isinstance(value, dict):
        return f'{{{",".join(f"{key}:{_plain(inner)}" for key, inner in sorted(value.items()))}}}'
    return repr(value) if isinstance(value, bool | int | float | complex | str | bytes | None) else type(value).__name__


def _of_bytecode(code: CodeType) -> str:
    consts = [_of_bytecode(one) if isinstance(one, CodeType) else _plain(one) for one in code.co_consts]
    return repr((code.co_code.hex(), consts, code.co_names, code.co_varnames, code.co_freevars))
