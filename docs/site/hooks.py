"""MkDocs hooks: pages from outside of docs/, and a check that every public name has a docstring."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
log = logging.getLogger('mkdocs.hooks.mixjax')  # a warning here ends `mkdocs build --strict`

# Files that GitHub shows where they are, and the page of the site that each becomes.
OUTSIDE = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'launch/README.md': 'launch.md',
    **{f'examples/{file.name}': f'examples/{file.name}' for file in (ROOT / 'examples').glob('*.*')},
}
SHOWN = r'^::: mixjax\.(\S+)\n(?:    options:\n      members: \[(.*)\])?'  # a module, and the names that are shown
LINK = re.compile(r'(\]\(|(?:src|srcset|href)=")([^)"#:\s]+)(#[^)"]*)?(?=[)"])')


def relink(text: str, source: str, page: str) -> str:
    """Links of a Markdown file, as it stands in the repository, rewritten for its page of the site."""

    def moved(match: re.Match[str]) -> str:
        before, target, anchor = match[1], match[2], match[3] or ''
        path = (ROOT / source).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        inside = OUTSIDE.get(path) or path.removeprefix('docs/')
        if path not in OUTSIDE and not path.startswith('docs/'):
            return match[0]  # not part of the site: strict mode names it
        up = '../' * page.count('/')
        return f'{before}{up}{inside}{anchor}'

    return LINK.sub(moved, text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, CONTRIBUTING, CHANGELOG and the launch files' README as pages, and the examples as files."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text()
        content = relink(text, source, page) if page.endswith('.md') else text
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links from docs/ to a file outside of it to that file's page."""
    source = f'docs/{page.file.src_uri}'
    return markdown if page.file.src_uri in OUTSIDE.values() else relink(markdown, source, page.file.src_uri)


def public(module: griffe.Object) -> list[griffe.Object]:
    """The public functions, classes and methods that a module defines itself."""
    found: list[griffe.Object] = []
    for name, member in module.members.items():
        if name.startswith('_') or member.is_alias or not (member.is_function or member.is_class):
            continue
        found.append(member)
        if member.is_class:
            found += public(member)
    return found


def on_pre_build(config: MkDocsConfig) -> None:
    """Warn of each public name on an API page that has no docstring."""
    package = griffe.load('mixjax', search_paths=[ROOT])
    for page in sorted((Path(config.docs_dir) / 'api').glob('*.md')):
        for path, only in re.findall(SHOWN, page.read_text(), re.MULTILINE):
            found = package[path]
            names = {name.strip() for name in only.split(',')}
            for member in [found, *public(found)]:
                shown = not only or member.path.removeprefix(f'{found.path}.').split('.')[0] in names
                if shown and not member.has_docstring:
                    log.warning('%s: %s has no docstring', page.name, member.path)
