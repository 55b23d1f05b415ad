"""Rules that hold for the whole tree: what files may say, and who may import whom."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import listed, text

ROOT = Path(__file__).parents[1]

# Brackets keep these patterns from finding themselves.
UNWANTED = {
    'a path of one machine': r'/hom[e]/\w|/roo[t]/|/User[s]/\w|/wor[k]/|/tm[p]/v3|[.]{2}/share[d]',
    'the address of a package index': r'index-ur[l]|find-link[s]|pypi[.]or[g]|pythonhoste[d]|file:/[/]/',
}
# The trainer and the data know no method. As whole words, in code and in text, but not in comments.
METHOD_NAMES = r'\b(smile|xmixup|mixup|lamix|delta|rifle|cotuning|regsl)\b'

# Wings, from the ground up: what each may import of mixjax besides itself. A module beside the packages is a wing too.
MATHEMATICS = ('errors', 'losses', 'mix', 'maths')
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    'version': (),
    '': ('version',),
    'errors': (),
    'losses': ('errors',),
    'mix': ('errors', 'losses'),
    'maths': ('errors', 'losses', 'mix'),
    'host': ('errors',),
    'models': ('errors', 'host'),
    'data': ('errors', 'host'),
    'rundir': ('errors', 'host', 'version'),
    'tasks': ('errors', 'losses'),
    'method': ('errors', 'losses', 'models.net'),
    'methods': (*MATHEMATICS, 'method', 'models'),
    'wrappers': (*MATHEMATICS, 'method', 'models'),
    'report': ('errors', 'host.storage', 'host.terminal', 'host.untrusted', 'rundir.thumbnail'),
    'config': ('data', 'errors', 'host', 'method', 'models', 'tasks'),
    'train': (*MATHEMATICS, 'config', 'data', 'host', 'method', 'models', 'rundir', 'tasks', 'version'),
    'inference': ('config', 'data', 'errors', 'host', 'method', 'models', 'rundir', 'tasks', 'train'),
    'export': ('data', 'errors', 'host', 'inference', 'models', 'version'),
    'api': ('config', 'data', 'errors', 'host', 'inference', 'method', 'report', 'rundir', 'search', 'train'),
    'analysis': (
        *MATHEMATICS, 'config', 'data', 'host', 'inference', 'method', 'models', 'report', 'rundir', 'train', 'version',
    ),
    'search': (
        'config', 'data', 'errors', 'host', 'maths', 'models', 'rundir', 'train',
    ),
    'planner': ('config', 'data', 'errors', 'host', 'method', 'models', 'train'),
    'commands': (
        'analysis', 'config', 'data', 'errors', 'host', 'inference', 'models', 'planner', 'report', 'rundir', 'search',
        'train', 'version',
    ),
    'main': ('commands',),
    '__main__': ('commands',),
}  # fmt: skip

# Packages of tests that are not named after a wing: they cross several, or are shared.
WHOLES = {'browser', 'faults', 'hostile', 'launch', 'reproduction', 'support', 'tables'}

# What opens a file for writing, makes or renames one: `host/storage.py` does, and these, each for its reason.
WRITES = {
    'write_text', 'write_bytes', 'touch', 'mkdir', 'makedirs', 'symlink_to', 'hardlink_to', 'symlink', 'link', 'rename',
    'renames', 'save', 'savetxt', 'tofile', 'save_file', 'copy2', 'copyfile', 'copytree', 'move', 'mkstemp', 'mkdtemp',
    'NamedTemporaryFile', 'get_file', 'truncate', 'ftruncate', 'os.open', 'os.replace', 'open to write', 'ZipFile',
}  # fmt: skip
MAY_WRITE = {
    'host.storage': WRITES,
    'host.untrusted': {'os.open', 'ZipFile'},  # to read
    'rundir.integrity': {'rename'},  # a damaged checkpoint, within its own folder, in which there are no links
    'rundir.lock': {'os.open'},  # the folder itself, to lock it
    'host.terminal': {'os.open', 'open to write'},  # /dev/null
    'data.pixels.rowfile': {
        'os.open',
        'ftruncate',
        'mkdir',
    },  # rows of the pixel cache, which several processes fill in place
    'data.datasets.bucket_copy': {'get_file', 'os.replace', 'mkdir'},  # the store's client writes a copy to the cache
    'data.datasets.render_glyphs': {'ZipFile'},  # makes what ships with the package
    'data.datasets.builders.archive': {'ZipFile'},  # to read
    'models.weights.package_index': {'ZipFile'},  # to read
    'host.cluster': {'os.open'},  # /dev/null
    'models.weights.download': {'os.replace'},  # a whole file, within the hub's cache
    'planner.slices': {'open to write'},  # /dev/null
}


def sources(folder: str = 'mixjax') -> list[Path]:
    return sorted((ROOT / folder).rglob('*.py'))


def matches(pattern: str, source: str) -> list[str]:
    """`line number: line` of each line of `source` in which `pattern` is found."""
    return [f'{n}: {line.strip()}' for n, line in enumerate(source.splitlines(), 1) if re.search(pattern, line)]


def without_comments(source: str) -> str:
    """Python source with its comments blanked; the lines stay where they are."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return '\n'.join(lines)


def module_name(path: Path) -> str:
    """'data.plan' of mixjax/data/feed/plan.py, 'data' of mixjax/data/__init__.py."""
    parts = path.relative_to(ROOT / 'mixjax').with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(source: str, package: str, known: set[str]) -> Iterator[str]:
    """The mixjax modules that `source` imports anywhere, without 'mixjax.': 'losses', 'models.net', '' for the package.

    package: the package the source is in, against which relative imports count, such as 'mixjax.data'.
    known: the modules there are, which tell `from mixjax import losses` from a name in a module.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[: len(package.split('.')) + 1 - node.level] if node.level else []
            base = '.'.join([*base, *([node.module] if node.module else [])])
            inner = [f'{base}.{alias.name}' for alias in node.names]
            names = [name if name.removeprefix('mixjax.') in known else base for name in inner]
        for name in names:
            if name == 'mixjax' or name.startswith('mixjax.'):
                yield name.removeprefix('mixjax').removeprefix('.')


def under(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + '.') for name in names)


def wing(module: str) -> str:
    return module.partition('.')[0]


def forbidden(module: str, imported: str) -> bool:
    """Whether `module` must not import `imported`."""
    own = wing(module)
    return wing(imported) != own and not under(imported, MAY_IMPORT[own])


def all_imports(tree: dict[str, tuple[str, str]]) -> dict[str, set[str]]:
    """{module: the modules that it imports anywhere}. tree: {module: (its package, its source)}."""
    return {module: set(imports(source, package, set(tree))) - {module} for module, (package, source) in tree.items()}


def wrong_arrows(tree: dict[str, tuple[str, str]]) -> list[str]:
    return [
        f'mixjax.{module} imports mixjax.{name}'
        for module, names in all_imports(tree).items()
        for name in sorted(names)
        if forbidden(module, name)
    ]


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Nodes that lead to each other, as sorted lists."""
    reach = {node: {node} for node in arrows}
    for _ in arrows:
        grown = {node: seen.union(*(arrows.get(other, set()) for other in seen)) for node, seen in reach.items()}
        if grown == reach:
            break
        reach = grown
    both = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach}
    return sorted(sorted(group) for group in both if len(group) > 1)


def tree_of_mixjax() -> dict[str, tuple[str, str]]:
    return {module_name(path): ('.'.join(path.parent.relative_to(ROOT).parts), path.read_text()) for path in sources()}


@pytest.mark.parametrize('what', UNWANTED)
def test_no_file_has_local_paths_or_package_index_urls(what):
    files = [(path.relative_to(ROOT), text(path)) for path in listed()]
    found = [f'{path}:{line}' for path, source in files if source for line in matches(UNWANTED[what], source)]
    assert not found, f'{what}: {found}'


def test_pins_are_names_with_one_version():
    files = sorted(ROOT.glob('constraints-py*.txt'))
    assert {path.stem for path in files} >= {'constraints-py311', 'constraints-py312', 'constraints-py313'}
    for path in files:
        pins = [line for line in path.read_text().splitlines() if not line.startswith('#')]
        wrong = [line for line in pins if not re.fullmatch(r'[\w.-]+==[\w.]+', line)]
        assert not wrong, f'{path.name}: {wrong}'
        assert any(line.startswith('jax==') for line in pins), path.name


def test_trainer_and_data_name_no_method():
    files = [*sources('mixjax/train'), *sources('mixjax/data')]
    assert files
    found = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in files
        for line in matches(METHOD_NAMES, without_comments(path.read_text()))
    ]
    assert not found


def test_imports_point_down():
    assert not wrong_arrows(tree_of_mixjax())


def test_no_import_cycles():
    assert not circles(all_imports(tree_of_mixjax()))


def test_import_rules_name_existing_modules():
    known = set(tree_of_mixjax())
    assert MAY_IMPORT.keys() == {wing(module) for module in known}
    assert {name for allowed in MAY_IMPORT.values() for name in allowed} <= known
    assert MAY_WRITE.keys() <= known
    assert not circles({name: {wing(other) for other in allowed} for name, allowed in MAY_IMPORT.items()})


def test_few_modules_are_outside_of_packages():
    loose = {path.stem for path in (ROOT / 'mixjax').glob('*.py')}
    assert len(loose) <= 10, loose


def packages(folder: str) -> set[str]:
    """The packages in `folder` as dotted names within it, such as 'data.feed'."""
    return {'.'.join(path.parent.relative_to(ROOT / folder).parts) for path in (ROOT / folder).rglob('__init__.py')}


def imports_of_tests(source: str) -> list[str]:
    """The lines that import a test module, in code and in scripts that a test starts."""
    return matches(r'^\s*(from|import)\s+tests\b.*\btest_\w+', re.sub(r'\(\s*|,\s*\n\s*', ' ', source))


def test_packages_of_tests_have_the_names_of_wings():
    assert packages('tests') - packages('mixjax') == WHOLES


def test_no_test_module_is_imported():
    found = [
        f'{path.relative_to(ROOT)}:{line}' for path in sources('tests') for line in imports_of_tests(path.read_text())
    ]
    assert not found, f'no file may import a test module, move what is shared to tests/support: {found}'


@pytest.mark.parametrize(
    'package', sorted(str(path.parent.relative_to(ROOT)) for path in (ROOT / 'mixjax').rglob('__init__.py'))
)
def test_each_package_has_a_docstring(package):
    assert ast.get_docstring(ast.parse((ROOT / package / '__init__.py').read_text()))


def writing(source: str) -> Iterator[str]:
    """The calls of `source` that may open a file for writing, make one or give one another name, as in `WRITES`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ''
        name = method or (node.func.id if isinstance(node.func, ast.Name) else '')
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        of_os = isinstance(owner, ast.Name) and owner.id == 'os'
        if name == 'open' and not of_os:
            words = [*node.args[:2], *(word.value for word in node.keywords if word.arg == 'mode')]
            modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            if any(re.fullmatch('[rwaxbt+]+', mode) and set(mode) & set('wax+') for mode in modes):
                yield 'open to write'
        elif of_os and name in ('open', 'replace'):
            yield f'os.{name}'
        elif name in WRITES and (name != 'save' or isinstance(owner, ast.Name) and owner.id == 'np'):
            yield name
        elif name.startswith('savez') and not any(isinstance(one, ast.Name) and one.id == 'file' for one in node.args):
            yield name  # into a file that `storage.new` has opened it may


def test_only_storage_writes_files():
    """A link in a stranger's work directory leads nowhere, because there is one module that opens what is written."""
    found = []
    for path in sources():
        module = module_name(path)
        allowed = MAY_WRITE.get(module, set())
        found += [f'mixjax.{module}: {name}' for name in writing(path.read_text()) if name not in allowed]
    assert not found, f'write through mixjax.host.storage: {found}'


MOST_ARGUMENTS = 8
SETTINGS = {'make', 'wrap'}  # of methods and wrappers: their keyword-only arguments are what a config sets
FRONT_DOOR = {'mixjax.api.run'}


def long_signatures(source: str, module: str) -> list[str]:
    """The functions of `source` with too many arguments, keyword-only ones and those of `__init__` included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = {one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)} - {'self', 'cls'}
        if len(names) > MOST_ARGUMENTS and node.name not in SETTINGS and f'{module}.{node.name}' not in FRONT_DOOR:
            found.append(f'{module}.{node.name}: {len(names)} arguments')
    return found


def test_no_function_has_too_many_arguments():
    found = [each for path in sources() for each in long_signatures(path.read_text(), f'mixjax.{module_name(path)}')]
    assert not found, f'group what belongs together in a record: {found}'


def test_long_signatures_finds():
    keywords = ', '.join(f'k{i}' for i in range(8))
    init = f'class A:\n def __init__(self, a, *, {keywords}): ...'
    assert long_signatures(init, 'm') == ['m.__init__: 9 arguments']
    assert (
        long_signatures(init.replace('a, ', ''), 'm') == long_signatures(f'def make(a, *, {keywords}): ...', 'm') == []
    )


def test_importing_the_mathematics_loads_no_heavy_library():
    heavy = {'flax', 'grain', 'matplotlib', 'optax', 'orbax', 'sklearn', 'tensorflow', 'tensorflow_datasets'}
    heavy.add('huggingface_hub')
    script = 'import sys; from mixjax import losses, mix; print(*{name.partition(".")[0] for name in sys.modules})'
    loaded = subprocess.run([sys.executable, '-c', script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert 'jax' in loaded.split()
    assert not heavy & set(loaded.split())


# The rules themselves find what they are for.


def test_unwanted_patterns_find():
    machine, index = UNWANTED.values()
    for line in ('cd /' + 'home/me/x', '/' + 'root/.cache', 'read /' + 'work/main', '..' + '/shared/x'):
        assert matches(machine, line), line
    for line in ('--extra-index-' + 'url x', 'https://pypi' + '.org/simple', 'a @ file:/' + '//x'):
        assert matches(index, line), line
    assert not matches(machine, 'a/network/x /homework/ ../data')


def test_method_names_are_found_as_whole_words_outside_comments():
    source = '"""mixjax."""\nx = 1  # smile\ny = "a # mixup"\nl2sp_delta = 2\nz.delta\n'
    assert matches(METHOD_NAMES, without_comments(source)) == ['3: y = "a # mixup"', '5: z.delta']


def test_calls_that_write_are_found():
    source = (
        "path.open('w')\nopen(path, 'ab')\nopen(path, mode='r+')\npath.write_text('')\nos.open(path, 0)\n"
        "os.replace(a, b)\nnp.savez(path, a=1)\nnp.savez_compressed(f'{x}.npz', a=1)\nfolder.mkdir()\nnp.save(a, b)\n"
        "path.open('rb')\nopen(path)\ntext.replace('a', 'b')\nnp.savez(file, a=1)\narchive.open(member)\n"
    )
    assert list(writing(source)) == [
        'open to write', 'open to write', 'open to write', 'write_text', 'os.open', 'os.replace', 'savez',
        'savez_compressed', 'mkdir', 'save',
    ]  # fmt: skip


def test_imports_are_found():
    known = {'losses', 'models', 'models.net', 'train'}
    source = (
        'import jax, mixjax.train\nfrom mixjax import losses\nfrom mixjax.losses import x\nimport mixjax\n'
        'from . import net\nfrom .net import y\nfrom .. import losses\ndef f():\n  from ..train import z\n'
    )
    expected = ['train', 'losses', 'losses', '', 'models.net', 'models.net', 'losses', 'train']
    assert sorted(imports(source, 'mixjax.models', known)) == sorted(expected)


def test_imports_of_test_modules_are_found():
    for line in (
        'from tests.data.test_plan import x', 'import tests.test_tree', 'from tests.data import feed, test_plan as t',
        '    from tests import test_docs', 'from tests.data import (\n    feed,\n    test_plan,\n)',
    ):  # fmt: skip
        assert imports_of_tests(f'import os\n{line}\n'), line
    assert not imports_of_tests("from tests.support import toy\nfrom mixjax import test_x\nf('tests/test_x.py')\n")


@pytest.mark.parametrize('own', sorted(MAY_IMPORT))
def test_planted_upward_imports_are_found(own):
    """A line that imports any wing that this one must not is found, at the top of a module and inside a function."""
    tree = tree_of_mixjax()
    module = next(name for name in sorted(tree) if wing(name) == own)
    package, source = tree[module]
    others = [name for name in MAY_IMPORT if name not in ('', own) and not under(name, MAY_IMPORT[own])]
    for other in others:
        for line in (f'import mixjax.{other}', f'def f():\n    from mixjax import {other}'):
            found = imports(f'{source}\n{line}\n', package, set(tree))
            assert [name for name in found if forbidden(module, name)] == [other]
    assert others or own in ('main', '__main__', 'commands')


def test_import_rules_may_name_a_submodule():
    assert forbidden('method', 'models.weights') and not forbidden('method', 'models.net')
    assert forbidden('report.html', 'host.processes') and not forbidden('report.html', 'host.storage')


def test_planted_circles_are_found():
    assert circles({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}) == [['a', 'b', 'c']]
    tree = tree_of_mixjax()
    package, source = tree['data.feed.plan']
    tree['data.feed.plan'] = (package, f'{source}\ndef f():\n    from mixjax.data.feed import batches\n')
    assert circles(all_imports(tree)) == [['data.feed.batches', 'data.feed.plan']]
