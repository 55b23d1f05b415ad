"""Writing a network in another form: the files, the comparison, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError, nearest
from mixjax.export import card, cost, engine, network, onnx, stablehlo, torch_form, verify
from mixjax.export.cost import Cost
from mixjax.export.network import Exported
from mixjax.export.verify import Maps, Verified
from mixjax.host import storage, untrusted
from mixjax.host.storage import Place
from mixjax.models import weights
from mixjax.rundir import files
from mixjax.version import __version__

RECORD, CARD = 'export.json', 'README.md'


class Form(NamedTuple):
    """A form of a network.

    Attributes:
      name: its name.
      contents: (network, precision) -> the files, {name: contents}, without the card.
      probabilities: returns what the written folder says of the samples, and which program read it.
      maps: returns the maps of its network for the first two samples; None where they cannot be had.
      precisions: those that it has, the first by default.
    """

    name: str
    contents: Callable[[Exported, str], dict[str, bytes]]
    probabilities: Callable[[Place, Exported], tuple[np.ndarray, str]]
    maps: Callable[[Place, Exported], Maps] | None = None
    precisions: tuple[str, ...] = ('float32',)


def _torch(library: torch_form.Library) -> Form:
    def probabilities(folder: Place, exported: Exported) -> tuple[np.ndarray, str]:
        logits, by = torch_form.logits(folder, exported, library)
        return torch_form.predicts(exported, logits), by

    return Form(
        library.name,
        lambda exported, _: torch_form.contents(exported, library),
        probabilities,
        lambda folder, exported: torch_form.maps(folder, exported, library),
    )


ONNX = 'model.onnx'


def _onnx(exported: Exported, precision: str) -> dict[str, bytes]:
    images = exported.calibration if precision == 'int8' else None
    return {ONNX: onnx.to_bytes(exported.predictor, {}, precision=precision, calibration=images)[0]}


def _onnx_again(folder: Place, exported: Exported) -> tuple[np.ndarray, str]:
    return engine.open_onnx(folder / ONNX).probabilities(exported.samples.image), 'onnxruntime'


def _stablehlo_again(folder: Place, exported: Exported) -> tuple[np.ndarray, str]:
    return stablehlo.open_file(folder / stablehlo.FILE)(exported.samples.image), 'jax.export'


def _own(exported: Exported, _: str) -> dict[str, bytes]:
    return {'model.safetensors': weights.to_bytes(exported.predictor.network.variables)}


def _own_again(folder: Place, exported: Exported) -> tuple[np.ndarray, str]:
    from mixjax import inference

    return inference.load(str(folder)).values(exported.samples.image), 'mixjax'


FORMS = {
    form.name: form
    for form in (
        _torch(torch_form.TIMM),
        _torch(torch_form.TORCHVISION),
        Form(
            'onnx',
            _onnx,
            _onnx_again,
            lambda _, exported: onnx.layers(exported.predictor, exported.samples.image[:2]),
            onnx.PRECISIONS,
        ),
        Form('stablehlo', lambda exported, _: stablehlo.contents(exported), _stablehlo_again),
        Form('safetensors', _own, _own_again),
    )
}


class Written(NamedTuple):
    """The result of an export: the folder, its files with their sizes in bytes, and the comparison.

    cost: of a precision below float32, what it costs on labelled images; None if there are none.
    """

    folder: Place
    files: dict[str, int]
    verified: Verified
    cost: Cost | None = None


def form_of(name: str) -> Form:
    """Return a form by its name."""
    if name not in FORMS:
        raise UserError(f'--to: there is no form {name!r}{nearest(name, FORMS)}; they are {", ".join(FORMS)}')
    return FORMS[name]


def folder_of(workdir: str, form: str) -> Place:
    """Return the default folder of an export: inside the run, or in the current folder if it is no run's."""
    return (network.folder_of(workdir) or storage.to_place('.')) / 'export' / form


def export(exported: Exported, name: str, folder: Place, precision: str = 'float32') -> Written:
    """Write a network in a form, read it back, compare, and keep it only if it gives the same probabilities.

    With a precision below float32 that is required of the form in float32; what was written is compared, too, and what
    it costs in accuracy is measured.

    Args:
      exported: the network.
      name: of the form.
      folder: where to; new, empty, or an earlier export.
      precision: one of the form's.
    """
    form = form_of(name)
    if precision not in form.precisions:
        raise UserError(f'the form {name} has the precision {" or ".join(form.precisions)}, and not {precision}')
    check_folder(folder)
    about = {**exported.about, 'dtype': 'float32'}
    beside = {'model.json': (json.dumps(about, indent=2) + '\n').encode()}
    made, verified = _verified(exported, form, folder, beside)
    paid = None
    if precision != 'float32':
        low = {**form.contents(exported, precision), **beside}
        for file, data in low.items():
            storage.write(folder / file, data)
        found, by = form.probabilities(folder, exported)
        verified, made = verify.compare(exported, found, by), low
        paid = costs(exported, found)
    storage.write(folder / CARD, card.text(exported, form.name, verified, paid).encode())
    record = {
        'form': form.name, 'precision': precision, 'mixjax': __version__, 'files': sorted([*made, CARD]),
        'verified': verified._asdict(),
    }  # fmt: skip
    files.write_json(folder / RECORD, record)
    return Written(folder, {file: len(data) for file, data in made.items()}, verified, paid)


def costs(exported: Exported, found: np.ndarray) -> Cost | None:
    """Return what another precision costs on the samples; None if they have no labels."""
    label = exported.samples.label
    if label is None:
        return None
    return cost.cost(label, exported.probabilities, found, exported.predictor.task.name)


def _verified(
    exported: Exported, form: Form, folder: Place, beside: dict[str, bytes]
) -> tuple[dict[str, bytes], Verified]:
    """Write a form in float32 and compare it; remove it if it is not equal."""
    made = {**form.contents(exported, 'float32'), **beside}
    files.create(folder)
    (folder / RECORD).unlink(missing_ok=True)  # until the comparison is done, this is no export
    try:
        for file, data in made.items():
            storage.write(folder / file, data)
        found, by = form.probabilities(folder, exported)
        verified = verify.compare(exported, found, by)
        maps = form.maps
        verify.require_equal(exported, verified, None if maps is None else lambda: maps(folder, exported))
    except BaseException:
        for file in made:
            (folder / file).unlink(missing_ok=True)
        raise
    return made, verified


def check_folder(folder: Place) -> None:
    """Refuse a folder that holds something else than an export."""
    if not storage.is_dir(folder):
        return
    inside = sorted(path.name for path in folder.iterdir())
    if inside and RECORD not in inside:
        raise UserError(f'{folder} holds other files ({", ".join(inside[:3])}); give an empty folder with --out')


def record_of(folder: Place) -> dict[str, Any]:
    """Return the record of an export; refuse a folder that is none."""
    try:
        found = untrusted.parse(untrusted.read_regular(folder / RECORD, untrusted.MOST_TEXT))
        if not isinstance(found, dict):
            raise ValueError('it is of another format')
        return found
    except (OSError, ValueError) as error:
        raise UserError(f'{folder} is no export of mixjax (its {RECORD} cannot be read); see mixjax export') from error
