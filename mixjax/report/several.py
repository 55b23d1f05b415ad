"""The page of several runs, or of a whole grid: the answer, a table of all runs with filters, and each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from mixjax.report import filters, overview
from mixjax.report.answer import Answer
from mixjax.report.filters import Kind
from mixjax.report.overview import Line
from mixjax.report.read import Folder
from mixjax.report.words import TYPESET, bdi, count, escape, isolate

OPEN = 4  # number of runs up to which the details of each are open
LIMIT = 2_900_000  # bytes of the page
Section = Callable[[Folder, str, int], str]  # (folder, prefix of its ids, level of detail) -> HTML
# Levels of detail of each run: all, all but pictures and long text, the least.
ALL, WORDS, LEAST = 2, 1, 0
LEFT_OUT = {
    ALL: '',
    WORDS: 'To keep the file small, the pictures and whole configurations of the runs are left out',
    LEAST: 'To keep the file small, all but accuracy, curves and the main settings of the runs is left out',
}


def kinds(found: Sequence[Line]) -> list[Kind]:
    """Return the kinds of filters for the lines."""
    values = {
        ('d', 'Data'): [line.setting.dataset for line in found],
        ('l', 'Labels'): [line.setting.labels for line in found],
        ('n', 'Network'): [line.setting.network for line in found],
        ('m', 'Method'): [line.row.label for line in found],
    }
    bases = {line.base for line in found}
    values['m', 'Method'].sort(key=lambda label: (label not in bases, label))
    return [Kind(*names, Counter(those)) for names, those in values.items()]


def body(
    folders: Sequence[Folder], unfinished: Sequence[str], over: str, section: Section
) -> tuple[str, str]:  # fmt: skip
    """Return (HTML, style sheet) of the page.

    Args:
      folders: the work directories.
      unfinished: names of the runs that are left out.
      over: HTML in front of the runs.
      section: makes the HTML of a folder.
    """
    found = overview.lines(folders)
    by = kinds(found)
    several = {f't{place}': ('m', _methods(those)) for place, (_, those) in enumerate(overview.groups(found))}
    several |= {
        f's{place}-of': ('m', _methods([line for line in found if line.folder == place - 1]))
        for place in range(1, len(folders) + 1)
    }
    sheet = filters.sheet(by, several)
    before = [answer_html(overview.answer(found)), _left_out(unfinished), filters.form(by, 'result')]
    room = LIMIT - _bytes([*before, sheet, over, table(found, by, set(range(1, len(folders) + 1)))])
    sections, told = _sections(folders, found, by, section, room)
    runs = table(found, by, {place for place, one in enumerate(sections, 1) if one})
    parts = [*before, runs, over, told, '<h2>Each run</h2>' if len(folders) > OPEN else '', *sections]
    return '\n'.join(part for part in parts if part), sheet


def _methods(found: Sequence[Line]) -> list[str]:
    return sorted({line.row.label for line in found})


def answer_html(found: Answer) -> str:
    """Return the answer, which precedes everything else."""
    # a name before its value in the source, the value above its name on the page
    figures = ''.join(f'<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>' for value, what in found.figures)
    remarks = f'<p>{escape(" ".join(found.remarks))}</p>' if found.remarks else ''
    return (
        f'<section class="answer" aria-label="Answer"><p class="headline">{escape(found.headline)}</p>'
        f'<dl>{figures}</dl>{remarks}</section>'
    )


def _left_out(unfinished: Sequence[str]) -> str:
    if not unfinished:
        return ''
    names = ''.join(f'<li>{escape(one)}</li>' for one in unfinished)
    told = f'{count(len(unfinished), "run")} not finished, and left out'
    return f'<details class="note"><summary>{told}</summary><ul>{names}</ul></details>'


def heading(setting: overview.Setting, found: Sequence[Line]) -> str:
    """Return a setting in words: `cub200, 15 % labelled (899 images), resnet50`."""
    images = sorted({line.run.results['train_examples'] for line in found})
    many = ' to '.join(f'{one:,}' for one in dict.fromkeys((images[0], images[-1])))
    return f'{isolate(setting.dataset)}, {setting.labels} labelled ({many} images), {isolate(setting.network)}'


def table(found: Sequence[Line], by: Sequence[Kind], there: set[int]) -> str:
    """Return the table of all lines, setting by setting.

    Args:
      found: the lines.
      by: the kinds of filters.
      there: numbers of the sections on the page, from 1.
    """
    bodies = []
    for place, (setting, those) in enumerate(overview.groups(found)):
        own = {'d': setting.dataset, 'l': setting.labels, 'n': setting.network}
        top = overview.best(those)
        rows = '\n'.join(_row(line, by, there, line is top) for line in those)
        head = f'<tr><th scope="rowgroup" colspan="5"><span>{escape(heading(setting, those))}</span></th></tr>'
        bodies.append(f'<tbody class="t{place} {filters.classes(by, own)}">\n{head}\n{rows}\n</tbody>')
    primary = overview.shared_primary(found)
    numbers = (primary.column if primary else 'primary measure', 'n', 'difference')
    titles = ''.join(f'<th scope="col" class="num">{title}</th>' for title in numbers)
    head = f'<thead><tr><th scope="col">method</th>{titles}<th scope="col">run</th></tr></thead>'
    caption = (
        f'Test {primary.name if primary else "results"}, mean {TYPESET} standard deviation over n seeds; difference to '
        f'the baseline of the same setting{" in percentage points" if primary and primary.percent else ""}, paired '
        f'over seeds, {TYPESET} standard error'
    )
    shown = f'<p class="shown note"><span class="now"></span> of {count(len(found), "result")} shown</p>'
    return (
        '<div class="runs"><div class="scroll" role="region" tabindex="0" aria-label="All runs">'
        f'<table><caption>{caption}</caption>{head}{"".join(bodies)}</table></div>{shown}</div>'
    )


def _row(line: Line, by: Sequence[Kind], there: set[int], best: bool) -> str:
    accuracy = line.row.primary.spread(line.row.text, line.row.std, TYPESET)
    cells = (accuracy, str(line.row.n), overview.difference_text(line))
    label, place = bdi(line.row.label), line.folder + 1
    link = f'<a href="#s{place}">{label}</a>' if place in there else label
    kind = f'line {filters.classes(by, {"m": line.row.label})}' + (' best' if best else '')
    knobs = f' <span class="note">{escape(line.knobs)}</span>' if line.knobs else ''
    numbers = ''.join(f'<td class="num">{escape(cell)}</td>' for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{link}{knobs}</th>{numbers}<td>{escape(line.name)}</td></tr>'


# --- each run ---------------------------------------------------------------------------------------------------------


def _sections(
    folders: Sequence[Folder], found: Sequence[Line], by: Sequence[Kind], section: Section, room: int
) -> tuple[list[str], str]:  # fmt: skip
    """Return a section for each folder, '' for one that does not fit; and a message on those left out. room: bytes."""
    kept: list[str] = []
    for much in (ALL, WORDS, LEAST):
        kept = [_section(i, one, found, by, section, much, len(folders)) for i, one in enumerate(folders, 1)]
        if _bytes(kept) <= room:
            break
    else:
        for place, one in enumerate(kept):
            room -= _bytes([one])
            kept[place] = one if room >= 0 else ''
    told, gone = LEFT_OUT[much], kept.count('')
    told += f', and so are all details of the last {count(gone, "run")}' if gone else ''
    own = 'the report of a single run has all of it: mixjax report RUN'
    return kept, f'<p class="note">{told}; {own}.</p>' if told else ''


def _bytes(parts: Sequence[str]) -> int:
    return sum(len(part.encode()) for part in parts)


def _section(
    place: int, folder: Folder, found: Sequence[Line], by: Sequence[Kind], section: Section, much: int, many: int
) -> str:  # fmt: skip
    setting = next(line.setting for line in found if line.folder == place - 1)
    own = {'d': setting.dataset, 'l': setting.labels, 'n': setting.network}
    kind = f'folder s{place}-of {filters.classes(by, own)}'
    inner = section(folder, f's{place}', much)
    if many > OPEN:
        head = f'<summary><h2>{escape(folder.name)}</h2></summary>'
        return f'<section class="{kind} closed" id="s{place}">\n<details>{head}\n{inner}\n</details>\n</section>'
    return f'<section class="{kind}" id="s{place}">\n<h2>{escape(folder.name)}</h2>{inner}\n</section>'
