"""The pages of the documentation, and the code on them."""

import re

from tests.support.common import ROOT

PAGES = sorted([ROOT / 'README.md', ROOT / 'launch/README.md', *(ROOT / 'docs').glob('*.md')])


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / page).read_text(), re.DOTALL)
