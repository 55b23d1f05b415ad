"""The benchmark suite: `make bench`, or

    python -m benchmarks [--parts=methods,growth] [--methods=smile,xmixup] [--short]

Each part is a separate process. The results go to benchmarks/results/<device>.json and to docs/speed.md; with some
parts only, the others stay as they were. `--short` tries every part in a few minutes and writes nothing: its figures
are meaningless. Run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / 'benchmarks' / 'results', ROOT / 'docs' / 'speed.md'
PARTS = ('methods', 'backbones', 'against', 'whole', 'growth', 'devices', 'solver', 'probe')
OF_PART = {  # environment variables
    'devices': {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'},
    'against': {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},  # or jax takes most of the device's memory for itself
}


def measure_part(name: str, short: bool, only: tuple[str, ...], out: Path) -> None:
    """Measure a part in this process."""
    from benchmarks import parts
    from mixjax.rundir import files

    module = importlib.import_module(f'benchmarks.{name}')
    start = time.perf_counter()
    found = parts.plain(module.measure(short, only) if only else module.measure(short))
    about = {
        **files.environment(),
        'devices': sorted(set(files.environment()['devices'])),
        'processor': processor(),
    }
    out.write_text(json.dumps({**found, 'about': about, 'seconds': round(time.perf_counter() - start)}))


def processor() -> str:
    """Return the number and kind of processors."""
    names: set[str] = set()
    try:
        with open('/proc/cpuinfo') as file:
            names = {line.partition(':')[2].strip() for line in file if line.startswith('model name')}
    except OSError:  # another system
        pass
    return f'{os.cpu_count()} x {", ".join(sorted(names)) or "processor"}'


def environment(name: str) -> dict[str, str]:
    """Return the environment variables for the process of a part."""
    return {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2', **OF_PART.get(name, {}), 'PYTHONPATH': str(ROOT)}


def measure_parts(names: tuple[str, ...], short: bool, only: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Return {part: its results}, and the parts that failed."""
    found, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out = Path(folder, f'{name}.json')
            print(f'{name} ..', flush=True)
            words = ['--one', name, str(out), str(int(short)), ','.join(only if name == 'methods' else ())]
            command = [sys.executable, '-m', 'benchmarks', *words]
            if subprocess.run(command, cwd=ROOT, env=environment(name)).returncode:
                failed.append(name)
                continue
            found[name] = json.loads(out.read_text())
            print(f'\n{text(found[name])}\n\n{found[name]["seconds"]} s\n', flush=True)
    return found, failed


def text(part: dict[str, Any]) -> str:
    """Return a part in Markdown."""
    from benchmarks import parts

    return '\n\n'.join(
        [*map(parts.table, part['tables']), *([parts.verdicts(part['verdicts'])] * bool(part['verdicts']))]
    )


def page(parts: dict[str, Any]) -> str:
    """Return the section of a device in docs/speed.md."""
    from benchmarks import parts as parts_lib

    about = next(iter(parts.values()))['about']
    commits = sorted({part['about']['commit'] or 'none' for part in parts.values()})
    verdicts = [one for part in parts.values() for one in part['verdicts']]
    counted = {kind: sum(one['verdict'] == kind for one in verdicts) for kind in ('holds', 'missed', 'not judged')}
    lines = [
        f'## {", ".join(about["devices"])}',
        '',
        '    make bench',
        '',
        f'{about["processor"]}; jax {about["jax"]}, python {about["python"]}; commit {", ".join(commits)}. Of the '
        f'targets {counted["holds"]} hold, {counted["missed"]} are missed and {counted["not judged"]} could not be '
        'judged here.',
        '',
        parts_lib.verdicts(verdicts),
        '',
        *('\n\n'.join(map(parts_lib.table, part['tables'])) + '\n' for part in parts.values() if part['tables']),
    ]
    return '\n'.join(lines)


def write(found: dict[str, Any]) -> None:
    """Write the results beside those of other parts."""
    from mixjax.report import sections

    device = next(part for name, part in found.items() if name != 'devices' or len(found) == 1)['about']['devices'][0]
    name = re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')
    path = RESULTS / f'{name}.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    parts = {part: {**before, **found}[part] for part in PARTS if part in {**before, **found}}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(parts, indent=1) + '\n')
    sections.write(PAGE, name, page(parts))
    print(f'written: {path.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}')


def main(words: list[str]) -> int:
    if words[:1] == ['--one']:
        name, out, short, only = words[1:]
        measure_part(name, bool(int(short)), tuple(filter(None, only.split(','))), Path(out))
        return 0
    flags = {name: value for name, _, value in (word.partition('=') for word in words)}
    names = tuple(flags['--parts'].split(',')) if '--parts' in flags else PARTS
    if not flags.keys() <= {'--parts', '--methods', '--short'} or not set(names) <= set(PARTS):
        print(f'{__doc__}\nparts: {", ".join(PARTS)}')
        return 2
    start = time.perf_counter()
    short, only = '--short' in flags, tuple(filter(None, flags.get('--methods', '').split(',')))
    found, failed = measure_parts(names, short, only)
    if found and not short:
        write(found)
    print(f'{time.perf_counter() - start:.0f} s' + (f'; failed: {", ".join(failed)}' if failed else ''))
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
