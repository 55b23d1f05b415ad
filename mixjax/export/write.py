"""Writing a network in another form: the files, the comparison, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mixjax.errors import UserError, nearest
from mixjax.export import card, network, stablehlo, torch_form, verify
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
      contents: returns the files, {name: contents}, without the card.
      probabilities: returns what the written folder says of the samples, and which program read it.
      maps: returns the maps of its network for the first two samples; None where they cannot be had.
    """

    name: str
    contents: Callable[[Exported], dict[str, bytes]]
    probabilities: Callable[[Place, Exported], tuple[np.ndarray, str]]
    maps: Callable[[Place, Exported], Maps] | None = None


def _torch(library: torch_form.Library) -> Form:
    def probabilities(folder: Place, exported: Exported) -> tuple[np.ndarray, str]:
        logits, by = torch_form.logits(folder, exported, library)
        return torch_form.predicts(exported, logits), by

    return Form(
        library.name,
        lambda exported: torch_form.contents(exported, library),
        probabilities,
        lambda folder, exported: torch_form.maps(folder, exported, library),
    )


def _own(exported: Exported) -> dict[str, bytes]:
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
            'stablehlo',
            stablehlo.contents,
            lambda folder, exported: (
                stablehlo.open_file(folder / stablehlo.FILE)(exported.samples.image),
                'jax.export',
            ),
        ),
        Form('safetensors', _own, _own_again),
    )
}


class Written(NamedTuple):
    """The result of an export: the folder, its files with their sizes in bytes, and the comparison."""

    folder: Place
    files: dict[str, int]
    verified: Verified


def form_of(name: str) -> Form:
    """Return a form by its name."""
    if name not in FORMS:
        raise UserError(f'--to: there is no form {name!r}{nearest(name, FORMS)}; they are {", ".join(FORMS)}')
    return FORMS[name]


def folder_of(workdir: str, form: str) -> Place:
    """Return the default folder of an export: inside the run, or in the current folder if it is no run's."""
    return (network.folder_of(workdir) or storage.to_place('.')) / 'export' / form


def export(exported: Exported, name: str, folder: Place) -> Written:
    """Write a network in a form, read it back, compare, and keep it only if it gives the same probabilities.

    Args:
      exported: the network.
      name: of the form.
      folder: where to; new, empty, or an earlier export.
    """
    form = form_of(name)
    check_folder(folder)
    made = form.contents(exported)
    about = {**exported.about, 'dtype': 'float32'}
    made['model.json'] = (json.dumps(about, indent=2) + '\n').encode()
    files.create(folder)
    (folder / RECORD).unlink(missing_ok=True)  # until the comparison is done, this is no export
    for file, data in made.items():
        storage.write(folder / file, data)
    try:
        found, by = form.probabilities(folder, exported)
        verified = verify.compare(exported, found, by)
        maps = form.maps
        verify.require_equal(exported, verified, None if maps is None else lambda: maps(folder, exported))
    except BaseException:
        for file in made:
            (folder / file).unlink(missing_ok=True)
        raise
    storage.write(folder / CARD, card.text(exported, form.name, verified).encode())
    record = {'form': form.name, 'mixjax': __version__, 'verified': verified._asdict()}
    files.write_json(folder / RECORD, record)
    sizes = {file: len(data) for file, data in made.items()}
    return Written(folder, sizes, verified)


def check_folder(folder: Place) -> None:
    """Refuse a folder that holds something else than an export."""
    if not storage.is_dir(folder):
        return
    inside = sorted(path.name for path in folder.iterdir())
    if inside and RECORD not in inside:
        raise UserError(f'{folder} holds other files ({", ".join(inside[:3])}); give an empty folder with --out')


def record_of(folder: Place) -> dict[str, object]:
    """Return the record of an export; refuse a folder that is none."""
    try:
        return untrusted.parse(untrusted.read_regular(folder / RECORD, untrusted.MOST_TEXT))
    except (OSError, ValueError) as error:
        raise UserError(f'{folder} is no export of mixjax (it has no {RECORD}); see mixjax export') from error
