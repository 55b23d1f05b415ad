"""`mixjax predict`: classify images with a trained network."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.report.words import cell, plain


class Answer(NamedTuple):
    """Predictions: a row for each image, how many with a known class are right, and the files left out."""

    rows: list[dict[str, Any]]
    correct: int
    labelled: int
    unreadable: dict[str, str]
    others: int
    irregular: int = 0

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.labelled if self.labelled else None


def of_files(predictor: Any, given: Sequence[str], top: int) -> Answer:
    """The answer for files and folders."""
    from mixjax import inference

    found, others, irregular = inference.files(given)
    if not found:
        raise UserError(f'there is no image in {", ".join(given)}')
    below = dict(found)
    named = {path for path in map(Path, given) if path.is_file()}
    rows, unreadable, correct, labelled = [], {}, 0, 0
    for path, result in predictor.stream(path for path, _ in found):
        if isinstance(result, str):
            if path in named:
                raise UserError(f'{path} cannot be read: {result}')
            unreadable[str(path)] = result
            continue
        row: dict[str, Any] = {'file': str(path)}
        label = inference.label_of(below[path], predictor.classes)
        ranked = predictor.ranked(result, top)
        if label is not None:
            row['label'] = label
            labelled += 1
            correct += predictor.classes[int(np.argmax(result))] == label
        rows.append({**row, 'top': [{'class': name, 'probability': p} for name, p in ranked]})
    return Answer(rows, correct, labelled, unreadable, others, irregular)


def of_test_set(predictor: Any, workdir: str, top: int) -> Answer:
    """The answer for the images that the run was tested on."""
    from mixjax import inference

    test = inference.test_set(workdir)
    probabilities = predictor.probabilities(test.image)
    rows = [
        {
            'file': f'test image {k}',
            'label': predictor.classes[label],
            'top': [{'class': name, 'probability': p} for name, p in predictor.ranked(probabilities[k], top)],
        }
        for k, label in enumerate(test.label)
    ]
    return Answer(rows, int(np.sum(probabilities.argmax(1) == test.label)), len(test.label), {}, 0)


# --- what it looks like -----------------------------------------------------------------------------------------------


def as_text(answer: Answer) -> str:
    width = min(max((len(row['file']) for row in answer.rows), default=0), 60)
    lines = [
        f'{plain(row["file"]):{width}}  '
        + ', '.join(f'{plain(one["class"])} {100 * one["probability"]:.1f} %' for one in row['top'])
        for row in answer.rows
    ]
    return '\n'.join([*lines, *summary(answer)])


def summary(answer: Answer) -> list[str]:
    """Summarise the files that were left out, and the accuracy where the classes are known."""
    lines = []
    if answer.others:
        what = 'that is no image' if answer.others == 1 else 'that are no images'
        lines.append(f'left out, {counted(answer.others, "file")} {what}')
    if answer.irregular:
        what = 'that is not a regular file' if answer.irregular == 1 else 'that are not regular files'
        lines.append(f'left out, {counted(answer.irregular, "file")} {what}')
    if answer.unreadable:
        shown = list(answer.unreadable.items())[:5]
        lines.append(f'left out, {counted(len(answer.unreadable), "image")} that cannot be read:')
        lines += [f'  {plain(path)}: {plain(why)}' for path, why in shown]
        lines += [f'  and {len(answer.unreadable) - 5} more'] * (len(answer.unreadable) > 5)
    if answer.accuracy is not None:
        part = '' if answer.labelled == len(answer.rows) else ' whose folder names their class'
        lines.append(f'accuracy {100 * answer.accuracy:.2f} % ({answer.correct} of {answer.labelled} images{part})')
    return lines


def counted(n: int, what: str) -> str:
    return f'{n} {what}{"s" * (n != 1)}'


def as_json(answer: Answer) -> str:
    whole: dict[str, Any] = {'predictions': answer.rows}
    if answer.accuracy is not None:
        whole |= {'accuracy': answer.accuracy, 'correct': answer.correct, 'labelled': answer.labelled}
    if answer.unreadable:
        whole['unreadable'] = answer.unreadable
    return json.dumps(whole, indent=2)


def write_csv(path: str, answer: Answer) -> None:
    """One line for each image: file, its label if it is known, then class and probability of each rank.

    Names are cells that a spreadsheet takes for text.
    """
    ranks = len(answer.rows[0]['top']) if answer.rows else 0
    file = io.StringIO()
    out = csv.writer(file)
    out.writerow(['file', 'label', *(f'{what}{k + 1}' for k in range(ranks) for what in ('class', 'probability'))])
    for row in answer.rows:
        top = [x for one in row['top'] for x in (cell(one['class']), f'{one["probability"]:.6f}')]
        out.writerow([cell(row['file']), cell(row.get('label', '')), *top])
    try:
        storage.write_named(storage.of(path), file.getvalue().encode())
    except OSError as error:
        raise UserError(f'--csv={path} cannot be written: {error.strerror}') from error


def run(arguments: Arguments) -> int:
    """Predict, and print or write what came out; returns the exit code."""
    from mixjax import inference

    import_modules(arguments['import'])
    workdir = arguments['workdir']
    predictor = inference.load(workdir, batch=arguments['batch'])
    top = min(arguments['top'], len(predictor.classes))
    if arguments['test']:
        answer = of_test_set(predictor, workdir, top)
    else:
        answer = of_files(predictor, arguments.positional, top)
    if arguments['csv']:
        write_csv(arguments['csv'], answer)
    if arguments['json']:
        print(as_json(answer))
    elif arguments['test']:
        print('\n'.join(summary(answer)))
    else:
        print(as_text(answer))
    return 0
