"""The documentation as a site: docstrings, names of modules on the pages, and the strict build."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.common import ROOT

PAGES = sorted(
    [*(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'launch/README.md')), *(ROOT / 'docs').rglob('*.md')]
)
DOCUMENTED = ('api', 'losses', 'mix', 'method', 'models.net', 'models.create', 'maths.class_pairing', 'inference')
WITH_EXAMPLES = ('losses', 'mix')


def module(name: str) -> ModuleType:
    return importlib.import_module(f'mixjax.{name}')


def public(name: str) -> dict[str, Any]:
    """The public functions, classes and methods that a module defines, by name."""
    owner = module(name)
    found: dict[str, Any] = {}
    for key, value in vars(owner).items():
        if key.startswith('_') or getattr(value, '__module__', None) != owner.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found[key] = value
        if inspect.isclass(value):
            members = {k: getattr(v, 'fget', v) for k, v in vars(value).items() if not k.startswith('_')}
            found |= {f'{key}.{k}': v for k, v in members.items() if inspect.isfunction(v)}
    return found


# --- docstrings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', DOCUMENTED)
def test_public_names_say_in_a_sentence_what_they_are_or_do(name):
    found = public(name)
    assert found
    for key, value in found.items():
        summary = (value.__doc__ or '').strip().split('\n\n')[0]
        assert re.match(r'[A-Z]', summary), f'{name}.{key}: {summary!r}'
        assert re.search(r'[.:](\s|$)', summary), f'{name}.{key} does not end its first sentence'
        # "What a loss gives": of something that has a name.
        assert not re.match(r'(What|Where|Which|Who|How|Whether)\b', summary), f'{name}.{key}: {summary!r}'


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_functions_describe_each_argument_and_have_an_example(name):
    for key, value in public(name).items():
        text = inspect.getdoc(value) or ''
        body = re.search(r'^Args:\n(.*?)\n\n', text, re.DOTALL | re.MULTILINE)
        assert body, key
        assert re.findall(r'^  (\w+): ', body[1], re.MULTILINE) == list(inspect.signature(value).parameters), key
        assert re.search(r'^(Returns|Raises):\n  \S', text, re.MULTILINE), key
        assert re.search(r'^Example:\n  >>> ', text, re.MULTILINE), key


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples_run(name):
    result = doctest.testmod(module(name))
    assert result.attempted > 3 * len(public(name)) and not result.failed


# --- names on the pages -----------------------------------------------------------------------------------------------


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of mixjax, or an attribute in one."""
    parts = name.split('.')
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_resolves_tells_names_that_exist_from_others():
    assert resolves('mixjax.losses') and resolves('mixjax.errors.UserError') and resolves('mixjax.load')
    assert not resolves('mixjax.pairing') and not resolves('mixjax.losses.nothing')


def test_every_module_that_a_page_names_exists():
    for page in PAGES:
        text = page.read_text()
        for name in set(re.findall(r'(?<!/)\bmixjax(?:\.[A-Za-z_]\w*)+', text)):
            assert resolves(name), f'{page.name}: {name}'
        for name in set(re.findall(r'`((?:losses|mix|maths|methods|models|host|train)(?:\.[A-Za-z_]\w*)+)', text)):
            setting = name in ('mix.groups', 'mix.shards')
            assert setting or name.endswith(('.py', '.md')) or resolves(f'mixjax.{name}'), f'{page.name}: {name}'
        for path in set(re.findall(r'(?<!/)\bmixjax/[\w/.]*\w', text)):
            assert (ROOT / path).exists(), f'{page.name}: {path}'
        for path in set(re.findall(r'\b(?:tests|reproduction|benchmarks|configs)/[\w/.]*\w\.(?:py|csv)\b', text)):
            assert (ROOT / path).exists() or 'study.py' in path, f'{page.name}: {path}'


def test_api_pages_show_modules_that_exist():
    for page in (ROOT / 'docs/api').glob('*.md'):
        for name in re.findall(r'^::: (\S+)', page.read_text(), re.MULTILINE):
            assert resolves(name), f'{page.name}: {name}'


# --- the site ---------------------------------------------------------------------------------------------------------


def build(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', str(root / 'site')]
    env = {**os.environ, 'NO_MKDOCS_2_WARNING': '1'}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path):
    """A copy of what the site is made from."""
    for name in ('docs', 'examples', 'mixjax'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('mkdocs.yml', 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'launch/README.md'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_site_builds_and_fetches_nothing(tree):
    pytest.importorskip('mkdocs', reason='make docs installs what builds the site')
    done = build(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tree / 'site').rglob('*.html'))
    assert len(pages) > 25
    for page in pages:
        fetched = re.findall(r'<(?:script|img|source|iframe)[^>]* src(?:set)?="?(https?:[^" >]+)', page.read_text())
        fetched += re.findall(
            r'<link[^>]* rel="?(?:stylesheet|preconnect)"?[^>]* href="?(https?:[^" >]+)', page.read_text()
        )
        assert not fetched, f'{page.name}: {fetched}'
    losses = (tree / 'site/api/losses.html').read_text()
    assert all(f'id="mixjax.losses.{name}"' in losses for name in public('losses'))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def break_a_link(tree: Path) -> None:
    append(tree / 'docs/faq.md', '\n[away](nowhere.md)\n')


def break_an_anchor(tree: Path) -> None:
    append(tree / 'docs/faq.md', '\n[away](data.md#no-such-section)\n')


def add_a_page(tree: Path) -> None:
    (tree / 'docs/lost.md').write_text('# Not in the navigation\n')


def drop_a_docstring(tree: Path) -> None:
    append(tree / 'mixjax/mix.py', '\n\ndef undescribed(x):\n    return x\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    'damage, said',
    [
        (break_a_link, 'nowhere.md'),
        (break_an_anchor, 'no-such-section'),
        (add_a_page, 'lost.md'),
        (drop_a_docstring, 'mixjax.mix.undescribed has no docstring'),
    ],
)
def test_what_is_wrong_ends_the_build(tree, damage, said):
    pytest.importorskip('mkdocs', reason='make docs installs what builds the site')
    damage(tree)
    done = build(tree)
    assert done.returncode != 0 and said in done.stdout + done.stderr
