"""The notebooks in examples/ run from top to bottom, and are kept without what they printed."""

import json

import nbclient
import nbformat
import pytest

from tests.support.common import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / 'examples').glob('*.ipynb'))


def test_there_are_notebooks():
    assert NOTEBOOKS == ['first_steps', 'own_method']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebooks_are_kept_without_outputs(name):
    cells = json.loads((ROOT / f'examples/{name}.ipynb').read_text())['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 5
    assert not any(cell['outputs'] or cell['execution_count'] for cell in code)


@pytest.mark.parametrize('name', ['first_steps', pytest.param('own_method', marks=pytest.mark.slow)])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of Jupyter's own packages
def test_notebooks_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(tmp_path / 'runtime'))
    monkeypatch.setenv('TMPDIR', str(tmp_path))  # where the notebooks make their folder
    notebook = nbformat.read(ROOT / f'examples/{name}.ipynb', as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute(cwd=str(tmp_path))
    printed = json.dumps([cell.get('outputs', []) for cell in notebook.cells])
    for text in {
        'first_steps': ('Accuracy(mean=', 'cross', 'report.html True'),
        'own_method': ('half_mixup', 'the function of the method half_mixup, or what it uses, has changed', '(2, 10)'),
    }[name]:
        assert text in printed, text
