"""The results of `mixjax analyse` in a folder: `analysis.json`, and the arrays beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted
from mixjax.host.storage import Place

FILE = 'analysis.json'


class AnalysisResults(NamedTuple):
    """The measurements of a run. numbers: {measure: its numbers, n and settings}. folder: the folder of its arrays."""

    numbers: Mapping[str, Any] = {}
    folder: Place = Path()

    def arrays(self, what: str) -> dict[str, np.ndarray]:
        """Read the arrays of one measure."""
        path = self.folder / f'analysis-{what}.npz'
        try:
            return untrusted.arrays(path)
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read ({type(error).__name__}): measure {what} again') from error


def read(folder: Place) -> AnalysisResults:
    """Read the measurements of a folder; none if there is no such file."""
    path = folder / FILE
    if not path.exists():
        return AnalysisResults()
    try:
        found = untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}): remove it, and measure again') from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise UserError(f'{path} was not written by mixjax analyse: remove it, and measure again')
    return AnalysisResults(found, folder)
