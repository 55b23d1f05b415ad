"""What no module of mixjax may do with what it reads."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

import mixjax
from mixjax.errors import UserError
from mixjax.host import processes
from mixjax.models.weights.torch_file import standins

PACKAGE = Path(mixjax.__file__).parent
# Where these are used all the same, and why.
ALLOWED = {
    ('import pickle', 'host/processes.py'): 'its own restricted reader; see KNOWN there',
    ('import pickle', 'models/weights/torch_file/machine.py'): 'names of opcodes; nothing of it is called',
    ('exec', 'config/grid_files.py'): "a person's own file of a grid, as a config is",
    ('import_module', '__init__.py'): 'modules of mixjax by their names',
    ('import_module', 'train/__init__.py'): 'mixjax.api',
    ('import_module', 'config/method_registry.py'): 'a method that a person names; names from files are refused',
    ('import_module', 'commands/cli.py'): 'what a person names with --import',
    ('import_module', 'commands/prepare.py'): 'builders of the catalogue',
    ('import_module', 'export/torch_form.py'): 'timm or torchvision, to see whether they are there',
    ('import torch', 'export/torch_form.py'): 'opens with timm and torchvision what was exported, from safetensors',
    ('exec_module', 'config/files.py'): "a person's own config",
    ('np.load', 'data/datasets/embedded.py'): 'a file of the package',
}
MODULES = (
    'pickle',
    'marshal',
    'shelve',
    'dill',
    'cloudpickle',
    'joblib',
    'yaml',
    'torch',
    'ctypes',
    'xmlrpc',
    'http.server',
)
CALLS = ('eval', 'exec', 'compile', '__import__', 'import_module', 'exec_module', 'system', 'popen', 'extractall',
         'extract', 'unpack_archive', 'full_load', 'unsafe_load')  # fmt: skip
METHODS_OF_OTHERS = {('re', 'compile'), ('ast', 'literal_eval')}


def uses(source: str) -> set[str]:
    """What of the list a module uses."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {f'import {name.name}' for name in node.names if name.name.split('.')[0] in MODULES}
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in MODULES:
            found.add(f'import {node.module}')
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, 'attr', '')
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ''
        )
        if name in CALLS and (owner, name) not in METHODS_OF_OTHERS and not (name == 'compile' and owner):
            found.add(name)
        if name == 'load' and owner in ('np', 'numpy', 'jnp'):
            found.add('np.load')
        for word in node.keywords:
            on = isinstance(word.value, ast.Constant) and word.value.value is not False
            if (word.arg == 'allow_pickle' and on) or (word.arg == 'shell' and on):
                found.add(f'{word.arg}=on')
    return found


def test_no_module_evaluates_what_it_reads():
    found = {
        (use, str(path.relative_to(PACKAGE)))
        for path in PACKAGE.rglob('*.py')
        for use in uses(path.read_text(encoding='utf-8'))
    }
    # beside its exec; and jax's
    found -= {('compile', 'config/grid_files.py'), ('compile', 'planner/compiled.py')}
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), 'no longer needed'


def test_the_list_finds_what_it_names():
    source = (
        'import yaml\nfrom pickle import loads\neval("1")\nnp.load(x)\nnp.save(x, allow_pickle=True)\nsubprocess.run(x,'
        'shell=True)\ntar.extractall(x)\nre.compile("x")\nnp.save(x, allow_pickle=False)'
    )
    wanted = {'import yaml', 'import pickle', 'eval', 'np.load', 'allow_pickle=on', 'shell=on', 'extractall'}
    assert uses(source) == wanted


def test_no_server_listens_but_two():
    """`liveness` hears a token and a number from the other processes of a run, and nothing else; `serve` is one."""
    server = re.compile(r'\bcreate_server\b|(?<!primitive)\.bind\(|\bserver\.listen\(|socketserver|socket\.socket\(')
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob('*.py') if server.search(path.read_text('utf-8'))}
    assert found == {'host/liveness.py', 'serve/server.py', 'commands/serve.py'}


class Evil:
    def __reduce__(self):
        return print, ('it was run',)


@pytest.mark.parametrize('message', [Evil(), [Evil()], {'a': PACKAGE}])
def test_process_messages_are_parsed_as_data(message, capsys):
    with pytest.raises(UserError, match='which is not a type that processes send each other'):
        processes.decode_message(pickle.dumps(message))
    assert capsys.readouterr().out == ''


def test_process_messages_round_trip():
    import jax.numpy as jnp
    import numpy as np

    from mixjax.method import Prepared, Segments

    draw = Segments(np.arange(5), np.zeros((1, 1), int), np.ones((1, 1), int), np.ones(1, int))
    made = Prepared({'a': {'b': np.eye(3)}, 'c': jnp.arange(3), 'd': np.array('x')}, draw, {'note': np.float64(0.5)})
    heard = processes.decode_message(pickle.dumps((True, made)))[1]
    np.testing.assert_array_equal(heard.frozen['a']['b'], np.eye(3))
    np.testing.assert_array_equal(heard.frozen['c'], [0, 1, 2])
    assert heard.notes == {'note': 0.5} and type(heard.draw) is Segments
    plain = (1, 'x', None, {'a': [1.5]}, {1, 2})
    assert processes.decode_message(pickle.dumps(plain)) == plain


def test_the_names_that_a_torch_file_may_use():
    """Nothing of them runs: each is a function of ours that takes plain data."""
    for name, function in standins.CALLS.items():
        assert function.__module__ == standins.__name__, name
    assert not any(name.startswith(('os.', 'posix.', 'subprocess.')) or 'eval' in name for name in standins.CALLS)
