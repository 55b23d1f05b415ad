"""What a person could write for a setting: by its type, and everything that has nothing to do with it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mixjax import config as config_lib
from mixjax.config import overrides
from tests.support import tiny_config

METHODS = ('finetune', 'mixup', 'bss', 'l2sp', 'lamix', 'regsl', 'smile', 'rifle', 'cutmix', 'label_smoothing')
STRANGE = (
    '', ' ', '0', '-1', '1e400', 'nan', '-inf', 'inf', 'None', 'True', 'true', '()', '[]', '(,)', '((((((((((1',
    '1,2,3', '0.5,', "'", '"', '\\', '\0', '\n', '\x1b[2J', '\ud800', '\u202e', 'a' * 300, '/' * 5000, '../../x',
    '~nobody-of-that-name/x', '<script>', '{0.__class__}', '%s', '9' * 400, '9' * 5000, '1_0', '0x10', '1j', 'b"x"',
    '/nowhere/at/all', '/proc/self/mem', '.', 'random://3', 'random://' + '9' * 30, 'hf://x', 'embedded://x', 'digits',
    'folder', 'synthetic', 'glyphs', 'tiny', 'glyphnet', 'sgd', 'adam', 'cosine', 'step', 'stream', 'resident', 'best',
    'last', 'stop', 'skip', 'classes', 'bfloat16', 'float64', 'bicubic', 'squash', 'trunk=0.1', 'stem', 'stage1,stem',
    'head:target', 'per_class', 'target.per_class', 'optim.lr', 'trunk=1e999', 'stem=nan', 'adamw', 'lion', 'muon',
    'linear', 'one_cycle', 'matrices', 'all', 'optim.warmup',
)  # fmt: skip


def whole_numbers() -> st.SearchStrategy[str]:
    edges = [0, 1, 2, 3, 4, 8, 16, 24, -1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**9, 10**30]
    return st.one_of(st.sampled_from(edges), st.integers(-3, 40), st.integers()).map(str)


def numbers() -> st.SearchStrategy[str]:
    edges = [0.0, -0.0, 1.0, 0.5, 1e-300, 1e300, 5e-324, 1e-9, 2.0, 0.999, float('nan'), float('inf'), float('-inf')]
    return st.one_of(st.sampled_from(edges), st.floats(0, 1), st.floats()).map(repr)


def tuples() -> st.SearchStrategy[str]:
    return st.lists(st.one_of(st.integers(-1, 3).map(str), numbers(), st.sampled_from(STRANGE[:12])), max_size=4).map(
        ','.join
    )


def by_type(value: Any) -> st.SearchStrategy[str]:
    """Texts of the kind that a setting has; not all of them can be."""
    if isinstance(value, bool):
        return st.sampled_from(['true', 'false', '0', '1', 'yes', '2'])
    if isinstance(value, int):
        return whole_numbers()
    if isinstance(value, float):
        return numbers()
    if isinstance(value, tuple):
        return tuples()
    return st.sampled_from(STRANGE)


def settings_of(method: str) -> dict[str, Any]:
    """Every setting with its value, those of the method and of a second one in a comparison too."""
    config = config_lib.complete(tiny_config.get_config(method))
    return {key: _at(config, key) for key in overrides.keys(config)}


def _at(config: Any, key: str) -> Any:
    for part in key.split('.'):
        config = config[part]
    return config


EVERY = {method: settings_of(method) for method in METHODS}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]]]:
    """(method, [(key, text)]): mostly one setting is changed, sometimes several that may not go together."""
    method = draw(st.sampled_from(METHODS))
    known = EVERY[method]
    every = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3, unique=True))
    every = every if draw(st.booleans()) else every[:1]
    wild = st.one_of(st.sampled_from(STRANGE), st.text(max_size=12))
    return method, [(key, draw(st.one_of(by_type(known[key]), by_type(known[key]), wild))) for key in every]
