"""The examples in the docstrings of the front door run, and print what they say."""

import doctest
import importlib

import pytest

MODULES = {
    'mixjax.analysis.explain': {'explain'},
    'mixjax.api': {'Results', 'Results.read', 'run'},
    'mixjax.config.defaults': {'Config', 'base'},
    'mixjax.data.dataset': {'Dataset.from_arrays', 'Dataset.from_folder'},
    'mixjax.export.cost': {'cost'},
    'mixjax.inference': {'Prediction', 'Predictor.__call__', 'Predictor.features', 'load'},
    'mixjax.models.create': {'create_model'},
    'mixjax.models.reading': {'read'},
    'mixjax.serve.served': {'parts', 'sizes', 'useful'},
}


@pytest.mark.parametrize('name', sorted(MODULES))
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    found = {one.name.removeprefix(f'{name}.'): one for one in doctest.DocTestFinder().find(module) if one.examples}
    assert found.keys() >= MODULES[name]
    for one in found.values():
        report: list[str] = []
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(one, out=report.append)
        assert outcome.attempted and not outcome.failed, ''.join(report)
