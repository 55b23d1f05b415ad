"""Tasks: what a label is, and what is learned, measured and shown of it.

One class an image (`classification`), several labels an image (`multi_label`), numbers (`regression`). A task is a
value, `Task`; the trainer names none.
"""

from __future__ import annotations

from mixjax.errors import UserError, nearest
from mixjax.tasks.classification import CLASSIFICATION
from mixjax.tasks.multi_label import MULTI_LABEL
from mixjax.tasks.regression import REGRESSION
from mixjax.tasks.task import Scale, Task

__all__ = ['CLASSIFICATION', 'MULTI_LABEL', 'NAMES', 'REGRESSION', 'Scale', 'Task', 'of']

TASKS = {task.name: task for task in (CLASSIFICATION, MULTI_LABEL, REGRESSION)}
NAMES = tuple(TASKS)


def of(name: str) -> Task:
    """Return the task that `config.target.task` names; '' is classification."""
    name = name or CLASSIFICATION.name
    if name not in TASKS:
        raise UserError(f'unknown task {name!r}{nearest(name, NAMES)}; the tasks are {", ".join(NAMES)}')
    return TASKS[name]
