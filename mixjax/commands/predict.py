"""`mixjax predict`: classify images with a trained network."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.report.words import cell, plain


class Answer(NamedTuple):
    """Predictions: a row for each image, how many with a known class are right, and the files left out.

    measures: those of the run's task on its test images, of another task than classification.
    notes: further sentences.
    """

    rows: list[dict[str, Any]]
    correct: int
    labelled: int
    unreadable: dict[str, str]
    others: int
    irregular: int = 0
    measures: Mapping[str, float] = {}
    notes: tuple[str, ...] = ()

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
        known = (*predictor.classes, *[inference.UNKNOWN] * (predictor.threshold > 0))
        label = None if predictor.task.rows else inference.label_of(below[path], known)
        if label is not None:
            row['label'] = label
            labelled += 1
            taken = inference.UNKNOWN if predictor.is_unknown(result) else predictor.classes[int(np.argmax(result))]
            correct += taken == label
        rows.append({**row, **predictor.as_data(result, top)})
    return Answer(rows, correct, labelled, unreadable, others, irregular)


def of_test_set(predictor: Any, workdir: str, top: int) -> Answer:
    """The answer for the images that the run was tested on."""
    from mixjax import inference

    test = inference.test_set(workdir)
    if predictor.task.rows:
        return _of_rows(predictor, test, top)
    probabilities = predictor.probabilities(test.image)
    rows = [
        {
            'file': f'test image {k}',
            'label': predictor.classes[label],
            **predictor.as_data(probabilities[k], top),
        }
        for k, label in enumerate(test.label)
    ]
    right = probabilities.argmax(1) == test.label
    right &= ~np.array([predictor.is_unknown(row) for row in probabilities], bool)
    return Answer(rows, int(right.sum()), len(test.label), {}, 0)


def _of_rows(predictor: Any, test: Any, top: int) -> Answer:
    """The answer for the test images of a run with several labels an image, or with numbers."""
    logits = predictor.logits(test.image)
    values, task = predictor.task.values(logits, predictor.scale), predictor.task
    measures = task.measures((), task.reported(logits, predictor.scale), test.label, predictor.classes)
    rows = []
    for k, label in enumerate(test.label):
        if task.scaled:
            true: Any = dict(zip(predictor.classes, map(float, label), strict=True))
        else:
            true = [predictor.classes[place] for place in np.flatnonzero(label)]
        rows.append({'file': f'test image {k}', 'true': true, **predictor.as_data(values[k], top)})
    return Answer(rows, 0, 0, {}, 0, measures={name: float(value) for name, value in measures.items()})


def explained(predictor: Any, answer: Answer, workdir: str, out: str) -> Answer:
    """Draw why each image is predicted as it is, and return the answer with what was found.

    Args:
      predictor: the network.
      answer: the answer for files.
      workdir: its work directory.
      out: the folder of the pictures.
    """
    from mixjax.analysis import drawing
    from mixjax.analysis.explain import NO_MAP, explain
    from mixjax.analysis.neighbours import labelled_images

    notes, labelled = (NO_MAP,) if predictor.task.scaled else (), None
    try:
        labelled = labelled_images(workdir, predictor)
    except UserError as error:
        notes = (*notes, f'no labelled images are shown: {error}')
    folder = storage.resolve_links(storage.to_place(out))
    rows, names = [], set()
    for row in answer.rows:
        found = explain(predictor, row['file'], labelled)
        path = folder / _unused(f'why-{Path(row["file"]).stem}', names)
        try:
            storage.make_folder(folder)
            storage.write(path, drawing.draw(found))
        except OSError as error:
            raise UserError(f'{path} cannot be written: {error.strerror}; choose another --out') from error
        near = [{'file': one.name, 'label': one.label, 'similarity': one.similarity} for one in found.nearest]
        why = {'picture': str(path), 'nearest': near}
        rows.append({**row, 'why': why if found.map is None else {'class': found.name, **why}})
    return answer._replace(rows=rows, notes=notes)


def _unused(stem: str, names: set[str]) -> str:
    """Return the name of a picture that no other one has."""
    name = next(name for k in itertools.count(1) if (name := f'{stem}{f"-{k}" if k > 1 else ""}.png') not in names)
    names.add(name)
    return name


# --- what it looks like -----------------------------------------------------------------------------------------------


def as_text(answer: Answer) -> str:
    width = min(max((len(row['file']) for row in answer.rows), default=0), 60)
    lines = []
    for row in answer.rows:
        lines += [f'{plain(row["file"]):{width}}  {_in_words(row)}', *_why_in_words(row.get('why'))]
    return '\n'.join([*lines, *summary(answer)])


def _in_words(row: Mapping[str, Any]) -> str:
    """Format the prediction of one image as a line."""
    if 'numbers' in row:
        return ', '.join(f'{plain(name)} {value:.6g}' for name, value in row['numbers'].items())
    if 'labels' in row:
        found = row['probabilities']
        return ', '.join(f'{plain(name)} {100 * found[name]:.1f} %' for name in row['labels']) or 'no label'
    return ', '.join(f'{plain(one["class"])} {100 * one["probability"]:.1f} %' for one in row['top'])


def _why_in_words(why: Mapping[str, Any] | None) -> list[str]:
    """Format an explanation as lines below the prediction."""
    if why is None:
        return []
    where = f' shows where the network finds {plain(why["class"])}' if 'class' in why else ''
    lines = [f'  {plain(why["picture"])}{where}']
    for place, one in enumerate(why['nearest']):
        head = '' if place else 'nearest labelled images:'
        name = f'  {plain(one["file"])}' if one['file'] else ''
        lines.append(f'  {head:24}  {one["similarity"]:.3f} {plain(one["label"])}{name}')
    return lines


def summary(answer: Answer) -> list[str]:
    """Summarise the files that were left out, and the accuracy where the classes are known."""
    lines = []
    if answer.others:
        what = 'that is not an image' if answer.others == 1 else 'that are not images'
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
    if answer.measures:
        shown = ', '.join(f'{plain(name)} {value:.4g}' for name, value in answer.measures.items())
        lines.append(f'{shown} ({counted(len(answer.rows), "image")})')
    return [*lines, *answer.notes]


def counted(n: int, what: str) -> str:
    return f'{n} {what}{"s" * (n != 1)}'


def as_json(answer: Answer) -> str:
    whole: dict[str, Any] = {'predictions': answer.rows}
    if answer.accuracy is not None:
        whole |= {'accuracy': answer.accuracy, 'correct': answer.correct, 'labelled': answer.labelled}
    if answer.measures:
        whole['measures'] = {name: value if math.isfinite(value) else None for name, value in answer.measures.items()}
    if answer.unreadable:
        whole['unreadable'] = answer.unreadable
    if answer.notes:
        whole['notes'] = answer.notes
    return json.dumps(whole, indent=2)


def write_csv(path: str, answer: Answer) -> None:
    """One line for each image: file, its label if it is known, then class and probability of each rank.

    Of several labels an image a column has the probability of each; of numbers, each. What is true of a test image is
    in one column, apart by semicolons. Names are cells that a spreadsheet takes for text.
    """
    file = io.StringIO()
    out = csv.writer(file)
    if answer.rows and 'top' not in answer.rows[0]:
        kind = 'numbers' if 'numbers' in answer.rows[0] else 'probabilities'
        known = 'true' in answer.rows[0]
        out.writerow(['file', *['true'] * known, *map(cell, answer.rows[0][kind])])
        for row in answer.rows:
            digits = '.9g' if kind == 'numbers' else '.6f'
            true = row.get('true', {})
            true = ';'.join(f'{value:.9g}' for value in true.values()) if kind == 'numbers' else cell(';'.join(true))
            values = [f'{value:{digits}}' for value in row[kind].values()]
            out.writerow([cell(row['file']), *[true] * known, *values])
        _write(path, file)
        return
    ranks = len(answer.rows[0]['top']) if answer.rows else 0
    out.writerow(['file', 'label', *(f'{what}{k + 1}' for k in range(ranks) for what in ('class', 'probability'))])
    for row in answer.rows:
        top = [x for one in row['top'] for x in (cell(one['class']), f'{one["probability"]:.6f}')]
        out.writerow([cell(row['file']), cell(row.get('label', '')), *top])
    _write(path, file)


def _write(path: str, file: io.StringIO) -> None:
    try:
        storage.write_named(storage.to_place(path), file.getvalue().encode())
    except OSError as error:
        raise UserError(f'--csv={path} cannot be written: {error.strerror}') from error


def run(arguments: Arguments) -> int:
    """Predict, and print or write what came out; returns the exit code."""
    from mixjax import inference

    import_modules(arguments['import'])
    workdir = arguments['workdir']
    if arguments['engine']:
        from mixjax.export import predictor as exported

        predictor: inference.Predictor = exported.load(workdir, arguments['engine'], arguments['batch'])
    else:
        predictor = inference.load(workdir, batch=arguments['batch'])
    top = min(arguments['top'], len(predictor.classes))
    if arguments['test']:
        answer = of_test_set(predictor, workdir, top)
    else:
        answer = of_files(predictor, arguments.positional, top)
    if arguments['why']:
        answer = explained(predictor, answer, workdir, arguments['out'])
    if arguments['csv']:
        write_csv(arguments['csv'], answer)
    if arguments['json']:
        print(as_json(answer))
    elif arguments['test']:
        print('\n'.join(summary(answer)))
    else:
        print(as_text(answer))
    return 0
