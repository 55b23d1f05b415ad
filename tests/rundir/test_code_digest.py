"""Digests of the source of a user's method, and of what it imports."""

from __future__ import annotations

import importlib
import sys
import types

import pytest

from mixjax.rundir import code_digest

METHOD = """
import json, optax, helper
from . import near
from .inner import deep

def make(classes_t):
    from late import number
    return number
"""
FILES = {
    'methods_of_mine/__init__.py': '',
    'methods_of_mine/mine.py': METHOD,
    'methods_of_mine/near.py': 'A = 1',
    'methods_of_mine/unused.py': 'A = 1',
    'methods_of_mine/inner/__init__.py': '',
    'methods_of_mine/inner/deep.py': 'import mixjax.losses',
    'helper.py': 'import importlib\nother = importlib.import_module("by_name")',
    'by_name.py': 'A = 1',
    'late.py': 'number = 1',
}
USED = {
    'methods_of_mine', 'methods_of_mine.mine', 'methods_of_mine.near', 'methods_of_mine.inner',
    'methods_of_mine.inner.deep', 'helper', 'by_name', 'late',
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget(before)


def forget(before):
    for name in set(sys.modules) - before:
        if name.partition('.')[0] in {'methods_of_mine', 'helper', 'by_name', 'late'}:
            del sys.modules[name]


def found(folder):
    """As a process that has just started finds it."""
    before = set(sys.modules)
    importlib.invalidate_caches()
    importlib.import_module('methods_of_mine.mine')
    out = code_digest.digests(['methods_of_mine.mine'])
    forget(before)
    return out


def test_digest_covers_imports_outside_of_site_packages(folder):
    first = found(folder)
    assert first.keys() == USED  # neither json, optax and mixjax, nor the module that nobody imports
    assert found(folder) == first
    for name in USED:
        path = folder.joinpath(*name.split('.'))
        path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
        text = path.read_text()
        path.write_text(text + '\nmore = 100\n')
        again = found(folder)
        assert {key for key in again if again[key] != first[key]} == {name}
        path.write_text(text)
    assert found(folder) == first


def test_digest_does_not_import_the_code(folder):
    importlib.import_module('methods_of_mine.mine')
    assert 'late' in code_digest.digests(['methods_of_mine.mine']) and 'late' not in sys.modules


def test_the_digest_is_of_what_was_loaded_and_not_of_an_edit_since(folder):
    module = importlib.import_module('methods_of_mine.mine')
    first = code_digest.digests(['methods_of_mine.mine'])
    (folder / 'methods_of_mine' / 'mine.py').write_text(METHOD + '\nweight = 100\n')
    assert code_digest.digests(['methods_of_mine.mine']) == first
    importlib.reload(module)
    assert code_digest.digests(['methods_of_mine.mine']) != first


def test_methods_of_mixjax_are_of_its_version(folder):
    assert code_digest.digests(['mixjax.methods.finetune']) == {}
    assert code_digest.digests([]) == {}


def made(text):
    module = types.ModuleType('of_a_notebook')
    exec(text, module.__dict__)
    return module


def test_a_module_without_a_file(monkeypatch):
    """Its functions decide; of a module without any nothing is known, and it is equal to all."""

    def digest(text):
        monkeypatch.setitem(sys.modules, 'of_a_notebook', made(text))
        (one,) = code_digest.digests(['of_a_notebook']).values()
        return one

    text = 'WEIGHT = 1.0\ndef make(classes_t, *, a=1):\n    def loss(x):\n        return 2 * x\n    return loss\n'
    assert digest(text) == digest(text + '# a comment\n') and code_digest.may_be_same(digest(text), digest(text))
    for old, new in (('2 *', '200 *'), ('1.0', '3.0'), ('a=1', 'a=2')):
        assert not code_digest.may_be_same(digest(text), digest(text.replace(old, new)))
    assert digest('') == code_digest.UNKNOWN and code_digest.may_be_same(digest(text), code_digest.UNKNOWN)
    assert code_digest.may_be_same('bytecode of Python 3.8 abc', digest(text))  # it cannot be known
