"""The files of the repository."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def listed() -> list[Path]:
    """The files that git tracks, or would on `git add .`."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(ROOT / name for name in set(names.split('\0')) if name and (ROOT / name).is_file())


def text(path: Path) -> str | None:
    """What the file says; None for one that is not text."""
    data = path.read_bytes()
    return None if b'\0' in data else data.decode()
