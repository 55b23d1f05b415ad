"""Every setting with every kind of value: refused in one sentence that names it, or traced, and some are trained."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import time
import traceback
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from mixjax import config as config_lib
from mixjax.commands import train as command
from mixjax.data.labelled import splits
from mixjax.errors import UserError
from mixjax.train import experiment
from tests.hostile import values
from tests.support.common import ROOT

HANGS = 20.0  # seconds
CONFIG = ROOT / 'tests' / 'support' / 'tiny_config.py'


class Accepted(BaseException):
    """The run has been checked, built and traced, and would train now."""


def words_of(method, changes, workdir):
    return [
        f'--config={CONFIG}:{method}', f'--workdir={workdir}',
        *(f'--config.{key}={text}' for key, text in changes),
    ]  # fmt: skip


def outcome(method, changes, workdir):
    """(exit code, what was said) of the command; the code is None where it was about to train."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main(words_of(method, changes, workdir))
        except Accepted:
            return None, ''
    return code, err.getvalue()


def badly_refused(changes, code, said):
    """What breaks the promise: exit code 2, one sentence, and in it the name of a setting that was changed."""
    if code is None:
        return ''
    named = [key for key, _ in changes if key in said or re.search(rf'\b{key.rpartition(".")[2]}\b', said)]
    well = code == 2 and said.startswith('mixjax: ') and 'Traceback' not in said and len(said) < 2500
    shown = said.replace('\n', '').isprintable() and said.count('\n') <= 12
    return '' if named and well and shown else f'{code}: {said}'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def accept(*_):
        raise Accepted

    monkeypatch.setattr(experiment, 'run_sweep', accept)
    monkeypatch.setattr(experiment, 'run_experiment', accept)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def campaign(folder, count, wanted):
    """Try so many cases; returns those that were accepted."""
    good, bad, tally = [], [], Counter()

    @seed(wanted)
    @settings(
        max_examples=count, deadline=None, database=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(values.cases())
    def attempt(case):
        method, changes = case
        began = time.monotonic()
        code, said, why = None, '', ''
        try:
            code, said = outcome(method, changes, folder / 'run')
        except Exception:
            why = traceback.format_exc(limit=-3)
        if time.monotonic() - began > HANGS:
            why += f'it took {time.monotonic() - began:.0f} s'
        tally['accepted' if code is None else 'refused'] += 1
        if code is None and not why:
            good.append(case)
        why = why or badly_refused(changes, code, said)
        if why:
            bad.append(f'{method} {changes}: {why}')

    attempt()
    print(dict(tally))
    assert not bad, '\n\n'.join([f'{len(bad)} cases:', *bad])
    # Nothing was left behind but what the system keeps of locks that were given back.
    assert not any(folder.rglob('*.json')) and {path.name for path in folder.iterdir()} <= {'run'}
    assert tally['accepted'] > count // 20 and tally['refused'] > count // 4
    return good


def test_setting_values_are_refused_or_traced(folder, monkeypatch):
    traced, turn = experiment.plan_experiment, iter(range(10**6))

    def some(*given):
        if next(turn) % 20:
            raise Accepted
        return traced(*given)

    monkeypatch.setattr(experiment, 'plan_experiment', some)
    campaign(folder, 200, 1)


def test_knobs_must_fit_into_int32():
    with pytest.raises(UserError, match=r'config\.method\.ema_every must be a whole number below 2,147,483,648'):
        config_lib.load('quickstart', [('method.name', 'smile'), ('method.ema_every', str(2**63))])


@pytest.mark.parametrize('key', ['method.source_weight', 'optim.lr', 'optim.drops'])
def test_numbers_must_fit_into_float32(key):
    """Traced by the campaign once, and infinite in the loss."""
    with pytest.raises(UserError, match=rf'config\.{key} must be a number of at most 3.4e38, not '):
        config_lib.load('quickstart', [('method.name', 'smile'), (key, '-1e300')])


@pytest.mark.parametrize('rate', [5e-324, 1e-300, 1e-12])
def test_tiny_rate_draws_one_example_per_class(rate):
    """Accepted by the campaign once, and nothing was left to train on."""
    labels = np.repeat(np.arange(3), 5)
    assert labels[splits.draw(labels, 'abc', seed=0, rate=rate)].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_setting_values_are_refused_or_trained(folder, monkeypatch):
    good = campaign(folder, int(os.environ.get('CASES', '2000')), int(os.environ.get('CASES_SEED', '2')))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    ended = Counter()
    short = [('steps', '2'), ('num_seeds', '1'), ('sweep.key', ''), ('sweep.numbers', '')]
    for number, (method, changes) in enumerate(random.Random(3).sample(good, 20)):
        taken = {key for key, _ in changes}
        more = [(key, text) for key, text in short if key not in taken or key in ('steps', 'num_seeds')]
        workdir = folder / f'trained-{number}'
        try:
            code, said = outcome(method, [*changes, *more], workdir)
        except Exception as error:
            raise AssertionError(f'{method} {changes}') from error
        # Absurd numbers may still end in a loss that is none, or in too little memory: in a sentence.
        if code:
            assert code == 2 and ('not finite' in said or 'memory' in said or 'finite loss' in said), (changes, said)
            ended['refused'] += 1
        else:
            results = json.loads((workdir / 'results.json').read_text())
            ended['finished'] += results['steps'] == 2 and (workdir / 'report.html').exists()
    print('trained:', dict(ended))
    assert ended.total() == 20 and ended['finished'] >= 15
