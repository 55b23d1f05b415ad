"""What README and docs say to type works as written."""

import importlib.util
import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixjax import config as config_lib
from mixjax.commands.parser import Arguments, parse
from mixjax.commands.table import COMMANDS as EVERY
from mixjax.commands.table import MEASURES, TRAIN
from mixjax.train.shared import preflight
from tests.support.common import ROOT, SHORT, call, lines
from tests.support.pages import PAGES, blocks


def commands() -> list[str]:
    """Every `mixjax COMMAND ..` line of an indented block, without comments."""
    found = []
    for page in PAGES:
        found += re.findall(r'^    (mixjax .*?)(?:  +#.*)?$', page.read_text(), re.MULTILINE)
    for name in config_lib.shipped():
        text = (ROOT / 'configs' / f'{name}.py').read_text()
        found += re.findall(r'^    (mixjax .*)$', text, re.MULTILINE)
    return found


def asked(name: str) -> list[Arguments]:
    """What the pages' commands `mixjax NAME ..` say, if all of their flags exist."""
    lines = [line.partition(' >')[0] for line in commands() if line.startswith(f'mixjax {name} ')]
    found = [shlex.split(line, comments=True)[2:] for line in lines]
    return [parse(EVERY[name], words) for words in found if 'FILE' not in ' '.join(words)]


def test_docs_show_every_command():
    assert len(commands()) > 100
    assert {line.split()[1] for line in commands()} == {'--help', *EVERY}


@pytest.mark.parametrize('name', sorted(EVERY))
def test_documented_flags_exist(name):
    assert asked(name)


@pytest.mark.parametrize(
    'line', [c for c in commands() if c.startswith('mixjax train ') and '--list' not in c and 'FILE' not in c]
)
def test_documented_train_commands_load_their_config(line, monkeypatch, tmp_path):
    # What the pages speak of: a folder of photographs at home, and the draw of an earlier run.
    for name in ('cat/1.png', 'cat/12.png', 'dog/123.png', 'dog/1234.png'):
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), len(name), np.uint8)).save(tmp_path / 'photos' / name)
    (tmp_path / 'photos/labels.csv').write_text('file,labels\ncat/1.png,fur;cat\ndog/123.png,fur\n')
    (tmp_path / 'splits.json').write_text(json.dumps({'target': 'digits', 'labelled rows': {'0': list(range(10))}}))
    monkeypatch.setenv('HOME', str(tmp_path))
    line = re.sub(r'runs/\S*/splits.json', str(tmp_path / 'splits.json'), line)
    command = parse(TRAIN, shlex.split(line)[2:])
    assert command.given.keys() - {'import'} == {'config', 'workdir'}
    if 'my_methods' in line or 'my_networks' in line:
        pytest.skip('run by a test below')
    config = config_lib.load(command['config'], command.overrides)
    if not config.model.weights.startswith('hf://') and not re.match('cifar|cub|stanford', config.target.name):
        preflight(config)


def test_every_measure_is_documented():
    found = asked('analyse')
    assert len(found) >= 8 and all(one['workdir'].startswith('runs/') for one in found)
    assert {name for one in found for name in one['what']} >= set(MEASURES)
    text = (ROOT / 'docs/analysis.md').read_text()
    assert all(f'\n## {name}\n' in text for name in MEASURES)


@pytest.mark.slow
def test_example_method_trains(tmp_path):
    code = next(block for block in blocks('docs/contract.md', 'python') if 'def make' in block)
    assert len(code.splitlines()) <= 30
    (tmp_path / 'my_methods').mkdir()
    (tmp_path / 'my_methods' / 'vicinal.py').write_text(code)
    line = next(c for c in commands() if 'my_methods.vicinal' in c)
    done = call(tmp_path, *shlex.split(line)[1:], *SHORT, '--config.num_seeds=1', module='mixjax')
    assert done.returncode == 0, done.stderr
    run = tmp_path / 'runs' / 'vicinal'
    assert {'ce', 'distance'} <= lines(run / 'metrics.jsonl')[0].keys()
    method = json.loads((run / 'config.json').read_text())['method']
    assert method == {'name': 'my_methods.vicinal', 'noise': 0.2, 'pull': 0.01}
    misspelt = call(tmp_path, '--config=quickstart', '--config.method.name=my_methods.vicinal',
                    '--config.method.noize=1', '--workdir=x')  # fmt: skip
    assert misspelt.returncode == 2 and "did you mean 'method.noise'" in misspelt.stderr


def test_example_network_trains_and_predicts(tmp_path):
    code = next(block for block in blocks('docs/networks.md', 'python') if 'BACKBONES' in block)
    (tmp_path / 'my_networks').mkdir()
    (tmp_path / 'my_networks' / 'small.py').write_text(code)
    assert len(code.splitlines()) <= 35
    train, look = (
        next(c for c in commands() if 'my_networks' in c and m in c) for m in ('mixjax train', 'mixjax predict')
    )
    done = call(tmp_path, *shlex.split(train)[1:], *SHORT, '--config.num_seeds=1', module='mixjax')
    assert done.returncode == 0, done.stderr
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(tmp_path / 'photo.png')
    name, *words = shlex.split(look)[1:]
    done = call(tmp_path, name, *words, module='mixjax')
    assert done.returncode == 0 and done.stdout.startswith('photo.png') and done.stdout.count('%') == 5, done.stderr
    lost = call(tmp_path, name, *words[1:], module='mixjax')
    assert lost.returncode == 2 and lost.stderr.startswith("mixjax: runs/small: unknown network 'small'")
    assert 'import the module that registers it (the commands have --import=MODULE)' in lost.stderr
    # Its run is measured, too, and the training command goes on from where it was.
    done = call(tmp_path, 'analyse', words[0], '--workdir=runs/small', '--what=curves', module='mixjax')
    assert done.returncode == 0, done.stderr
    lost = call(tmp_path, *shlex.split(train)[3:], *SHORT, '--config.num_seeds=1')
    assert lost.returncode == 2 and "config.model.name: unknown network 'small'" in lost.stderr


@pytest.mark.slow
def test_example_method_with_memory_trains(tmp_path):
    code = next(block for block in blocks('docs/contract.md', 'python') if 'average' in block)
    (tmp_path / 'my_methods').mkdir()
    (tmp_path / 'my_methods' / 'memory.py').write_text(code)
    words = ['--config=quickstart', '--config.method.name=my_methods.memory', '--workdir=run', '--config.num_seeds=1']
    done = call(tmp_path, *words, *SHORT)
    assert done.returncode == 0, done.stderr
    assert 'pull' in lines(tmp_path / 'run' / 'metrics.jsonl')[0]


@pytest.mark.slow
def test_the_method_with_a_teacher_trains(tmp_path):
    code = next(block for block in blocks('docs/contract.md', 'python') if 'models.read' in block)
    (tmp_path / 'my_methods').mkdir()
    (tmp_path / 'my_methods' / 'distil.py').write_text(code)
    words = ['--config=quickstart', '--config.num_seeds=1', *SHORT]
    done = call(tmp_path, *words, '--config.method.name=finetune', '--workdir=teacher')
    assert done.returncode == 0, done.stderr
    student = [*words, '--config.method.name=my_methods.distil', '--workdir=student']
    done = call(tmp_path, *student, '--config.method.teacher=teacher')
    assert done.returncode == 0, done.stderr
    assert {'ce', 'pull'} <= lines(tmp_path / 'student' / 'metrics.jsonl')[0].keys()
    other = call(tmp_path, *student[:-1], '--workdir=other', '--config.method.teacher=embedded://glyphnet')
    assert other.returncode == 2 and 'know 160 classes, which are not the 10 that are needed' in other.stderr


@pytest.mark.slow
def test_example_wrapper_trains(tmp_path):
    code = next(block for block in blocks('docs/methods.md', 'python') if 'def wrap' in block)
    (tmp_path / 'my_methods').mkdir()
    (tmp_path / 'my_methods' / 'halves.py').write_text(code)
    line = next(c for c in commands() if 'my_methods.halves' in c)
    done = call(tmp_path, *shlex.split(line)[1:], *SHORT, '--config.num_seeds=1', module='mixjax')
    assert done.returncode == 0, done.stderr
    run = tmp_path / 'runs' / 'halves'
    assert {'shrinkage', 'halves_lam'} <= lines(run / 'metrics.jsonl')[0].keys()
    method = json.loads((run / 'config.json').read_text())['method']
    assert (method['wrappers'], method['halves_least']) == (['my_methods.halves'], 0.7)


# --- every block of code ----------------------------------------------------------------------------------------------

# Python that is not run here, by a piece of it, and why.
NOT_RUN = {
    "catalog.load('cub200'": 'needs the images of CUB-200 (tests/data reads miniatures of it in this way)',
    "engine.open_onnx('photos-model": 'needs an exported file (tests/export opens some)',
    "mixjax.best('~/photos'": 'needs photographs and half an hour (tests/search calls it on digits)',
}

# Commands by their beginning: what runs or parses them, or why nothing does.
COMMANDS = {
    r'mixjax train --list': 'tests/test_main.py',
    r'mixjax train .*(FILE|HOST)': 'a pattern, not a command: names in capitals are to be filled in',
    r'(XLA_FLAGS=\S+ )?mixjax train': 'test_documented_train_commands_load_their_config',
    r'mixjax (best|predict|serve|export|report|grid|plan|prepare) ': 'test_documented_flags_exist',
    r'mixjax (analyse|calibrate|merge|push) ': 'test_documented_flags_exist',
    r'mixjax (completion|--help)|eval "\$\(mixjax completion': 'tests/commands',
    r'python -m (benchmarks|reproduction)\.': 'test_documented_targets_exist; they run for minutes to hours',
    r'(\w+=\S+ )*make ': 'test_documented_targets_exist; they run for minutes to hours',
    r'python -m venv|pip install': 'needs a package index (make test-install installs the wheel)',
    r'((\w+=\S+) )*launch/|export |sbatch |docker |kubectl |sky ': 'needs a cluster; make test-launch checks launch/',
}  # fmt: skip
COMMAND = r'(?:[A-Z_]+=\S+ +)*(?:mixjax|eval|python|pip|make|launch/\S+|export|sbatch|docker|kubectl|sky) '


def python_of(page: Path) -> list[str]:
    """The Python of a page in its order: fenced, or indented from an import on."""
    text = page.read_text()
    fenced = [(m.start(), m[1]) for m in re.finditer(r'```python\n(.*?)```', text, re.DOTALL)]
    plain = re.sub(r'```.*?```', lambda m: re.sub(r'[^\n]', '#', m[0]), text, flags=re.DOTALL)
    indented = re.finditer(r'(?:^(?:    .*)?\n)+', plain, re.MULTILINE)
    found = [(m.start(), textwrap.dedent(m[0])) for m in indented if re.match(r'\s*(import|from) \w', m[0])]
    return [code for _, code in sorted(fenced + found)]


def runnable(page: Path) -> list[str]:
    return [code for code in python_of(page) if not any(piece in code for piece in NOT_RUN)]


def shell() -> list[tuple[str, str]]:
    """(page, line) of every indented line that begins with a command."""
    return [
        (page.name, line)
        for page in PAGES
        for line in re.findall(rf'^    ({COMMAND}.*)$', page.read_text(), re.MULTILINE)
    ]


def test_code_blocks_are_found():
    counts = {page.name: len(python_of(page)) for page in PAGES if page.parent.name != 'launch'}
    assert {name: n for name, n in counts.items() if n} == {
        'README.md': 2, 'best.md': 1, 'contract.md': 9,
        'data.md': 1, 'export.md': 1, 'methods.md': 1, 'networks.md': 5, 'pods.md': 1, 'python.md': 4,
        'runs.md': 1, 'start.md': 1,
    }  # fmt: skip
    assert len(shell()) > 80


def test_every_documented_command_is_checked():
    unknown = [(page, line) for page, line in shell() if not any(re.match(known, line) for known in COMMANDS)]
    assert not unknown
    for known in COMMANDS:
        assert any(re.match(known, line) for _, line in shell()), f'{known} is on no page any more'


def test_documented_targets_exist():
    makefile = (ROOT / 'Makefile').read_text()
    targets = {word for line in re.findall(r'^([\w -]+):', makefile, re.MULTILINE) for word in line.split()}
    targets |= {f'test-{kind}' for kind in re.search(r'^KINDS := (.*)$', makefile, re.MULTILINE)[1].split()}
    for page, line in shell():
        for name in re.findall(r'python -m ((?:mixjax|benchmarks|reproduction)\S*)', line):
            assert importlib.util.find_spec(name), f'{page}: {line}'
        if made := re.match(r'(?:\w+=\S+ )*make ([\w-]+)', line):
            assert made[1] in targets, f'{page}: {line}'


@pytest.fixture(scope='module')
def worked(tmp_path_factory):
    """A folder with what the pages speak of: the work directories of finished runs, and a photograph."""
    folder = tmp_path_factory.mktemp('pages')
    words = ['--config=quickstart', '--config.method.name=smile', '--workdir=runs/smile', '--config.num_seeds=1']
    done = call(folder, *words, *SHORT)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / 'runs' / 'smile', folder / 'runs' / 'photos')
    Image.fromarray(np.full((16, 16), 128, np.uint8)).save(folder / 'photo.jpg')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('page', [p for p in PAGES if runnable(p)], ids=lambda p: p.stem)
def test_python_of_each_page_runs(page, worked):
    run = runnable(page)
    # One thing is changed: a notebook trains for eight steps.
    script = '\n\n'.join(run).replace('config.num_seeds = 1', 'config.num_seeds = 1; config.steps = 8')
    (worked / f'page_{page.stem}.py').write_text(script)
    done = call(worked, module=f'page_{page.stem}')
    assert done.returncode == 0, done.stderr
    if page.name == 'README.md':
        assert (worked / 'runs' / 'notebook' / 'report.html').exists()


def test_list_of_skipped_python_is_up_to_date():
    every = [code for page in PAGES for code in python_of(page)]
    for piece, why in NOT_RUN.items():
        assert why and any(piece in code for code in every)


def test_readme_maths_example_gives_a_loss():
    (code,) = [code for code in python_of(ROOT / 'README.md') if 'mixed_cross_entropy' in code]
    scope: dict = {}
    exec(code, scope)
    assert abs(float(scope['loss']) - np.log(3)) < 1e-6  # three equal logits


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_links_resolve():
    for page in [*PAGES, ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs/api').glob('*.md')]:
        for target, anchor in re.findall(r'\]\(([^)#:]*)(?:#([^)]*))?\)', page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f'{page.name}: {target}'
            assert not anchor or anchor in anchors(file), f'{page.name}: {target}#{anchor}'


def test_every_method_has_a_section():
    from mixjax.config import method_registry

    text = (ROOT / 'docs/methods.md').read_text()
    for name in method_registry.names():
        assert f'### {name}\n' in text
        for knob in method_registry.knobs(method_registry.load(name)):
            assert f'`{knob}`' in text.split(f'### {name}\n')[1].split('\n### ')[0], f'{name}: {knob}'


def test_every_wrapper_has_a_row():
    from mixjax.config import method_registry

    rows = (ROOT / 'docs/methods.md').read_text().split('\n## Wrappers\n')[1].split('\n## ')[0].splitlines()
    for name in method_registry.names(method_registry.WRAPPER):
        (row,) = [row for row in rows if row.startswith(f'| `{name}` |')]
        wrap = method_registry.load(name, kind=method_registry.WRAPPER)
        assert all(f'`{knob}`' in row for knob in method_registry.knobs(wrap))
