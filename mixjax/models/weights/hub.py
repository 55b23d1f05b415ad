"""Weights of the Hugging Face hub: `hf://OWNER/NAME[@REVISION]`, from its cache on disk or by a download.

A reference names its recipe: `timm/resnet50.tv_in1k` are torchvision's weights, `timm/resnet50.a1_in1k`
are others, and results with them are others too. The bare `timm/resnet50` is refused.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.models import efficientnet, preprocessing

PREFIX = 'hf://'
FILES = ('model.safetensors', 'pytorch_model.bin')
BESIDE = ('config.json', 'preprocessor_config.json')  # files that describe the weights' images


def _known() -> dict[str, dict[str, Any]]:
    """Return the repositories whose networks and images are known without reading them: timm's registry."""
    out: dict[str, dict[str, Any]] = {}

    def add(tag: str, network: str, name: str = '', *, size: int, fraction: float, way: str, colours: Any) -> None:
        said = preprocessing.settings(size, fraction, way, colours)
        out[f'timm/{name or network}.{tag}'] = {'model': network, 'classes': 1000, 'image': said}

    for depth in (18, 34, 50, 101, 152):
        resnet = f'resnet{depth}'
        add('tv_in1k', resnet, size=224, fraction=0.875, way='bilinear', colours=preprocessing.IMAGENET)
        add('a1_in1k', resnet, size=224, fraction=0.95, way='bicubic', colours=preprocessing.IMAGENET)
        if depth >= 50:
            add('tv2_in1k', resnet, size=224, fraction=0.965, way='bilinear', colours=preprocessing.IMAGENET)
    add('tv_in1k', 'densenet121', size=224, fraction=0.875, way='bicubic', colours=preprocessing.IMAGENET)
    for scale, (_, _, size, _, fraction) in efficientnet.SCALES.items():
        for tag in ('in1k', 'aa_in1k', 'ap_in1k', 'ns_jft_in1k'):
            colours = preprocessing.HALF if tag == 'ap_in1k' else preprocessing.IMAGENET
            network = f'efficientnet_{scale}'
            add(tag, network, f'tf_{network}', size=size, fraction=fraction, way='bicubic', colours=colours)
    torch = {'b0.ra_in1k': 224, 'b1.ft_in1k': 224, 'b2.ra_in1k': 256, 'b3.ra2_in1k': 288, 'b4.ra2_in1k': 320}
    for name, size in torch.items():  # torch's padding
        scale, _, tag = name.partition('.')
        network = f'efficientnet_{scale}'
        colours = preprocessing.IMAGENET
        add(tag, f'{network}_symmetric', network, size=size, fraction=0.875, way='bicubic', colours=colours)
    return out


KNOWN: Mapping[str, dict[str, Any]] = _known()


class Reference(NamedTuple):
    """OWNER/NAME and the revision."""

    repository: str
    revision: str


def parse(spec: str) -> Reference:
    """Parse a reference; refuse an invalid one, or one that leaves the recipe open."""
    match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?', spec)
    if match is None or '..' in spec:
        raise UserError(f'weights {spec}: write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION')
    repository = match[1]
    if repository.startswith('timm/') and '.' not in repository:
        recipes = [f'{PREFIX}{name}' for name in KNOWN if name.split('.')[0].endswith(repository.removeprefix('timm/'))]
        hint = f': {", ".join(recipes)}' if recipes else ''
        raise UserError(f'weights {spec} leave open which recipe they are of; name its tag{hint}')
    return Reference(repository, match[2] or 'main')


def cache() -> str:
    """Return the hub's cache folder, with `~` not expanded."""
    home = os.environ.get('HF_HOME', '~/.cache/huggingface')
    return os.environ.get('HF_HUB_CACHE', f'{home}/hub')


def folder(reference: Reference) -> str:
    return f'{cache()}/models--{reference.repository.replace("/", "--")}'


def cached_file(reference: Reference) -> Path | None:
    """Return the weights' file in the cache, or None."""
    here = Path(os.path.expanduser(folder(reference)))  # not expanded where the user has no home
    try:
        commit = untrusted.read_regular(here / 'refs' / reference.revision, 1000).decode().strip()
    except (OSError, ValueError):
        commit = reference.revision  # a commit hash
    places = [here / 'snapshots' / commit]
    if reference.revision == 'main':
        places += sorted((here / 'snapshots').glob('*'))  # put there by hand
    return next((place / file for place in places for file in FILES if (place / file).is_file()), None)


def about(reference: Reference, path: Path | None) -> dict[str, Any]:
    """Return the known part of {'model', 'classes', 'image'}: from the table, or from the files beside the weights."""
    if reference.repository in KNOWN:
        return dict(KNOWN[reference.repository])
    return {} if path is None else settings_beside(path)


def settings_beside(path: Path) -> dict[str, Any]:
    """Return the image settings that a file beside foreign weights sets; {} if there is none."""
    for name in BESIDE:
        try:
            text = untrusted.read_regular(path.parent / name, untrusted.MOST_TEXT)
            said = preprocessing.read_settings(untrusted.parse(text))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError):
            continue
        if said is not None:
            return {'image': said}
    return {}


def missing(spec: str) -> str | None:
    """Return None if the weights are here, after a download if that is possible; else a message on what to do."""
    reference = parse(spec)
    if cached_file(reference) is not None:
        return None
    why = _download(reference)
    if why is None:
        return None
    at = '' if reference.revision == 'main' else f' --revision {reference.revision}'
    return (
        f'the weights {spec} are missing; looked in\n'
        f'  {folder(reference)}: no such copy ({why})\n'
        'to get them:\n'
        "  pip install 'mixjax[hub]'\n"
        f'  hf download {reference.repository} {FILES[0]} {BESIDE[0]}{at}\n'
        'or fetch that file on another machine and give --config.model.weights=PATH/model.safetensors'
    )


def _download(reference: Reference) -> str | None:
    """Download the weights into the cache; return the reason if that fails."""
    if importlib.util.find_spec('huggingface_hub') is None:
        return 'and without huggingface_hub none can be downloaded'
    if os.environ.get('HF_HUB_OFFLINE', '0').lower() not in ('0', '', 'false', 'no'):
        return 'and HF_HUB_OFFLINE forbids a download'
    import huggingface_hub  # pyright: ignore[reportMissingImports]

    def get(name: str) -> None:
        huggingface_hub.hf_hub_download(
            reference.repository, name, revision=reference.revision, cache_dir=storage.to_place(cache()),
            etag_timeout=10,
        )  # fmt: skip

    why = ''
    for file in FILES:
        try:
            get(file)
        except Exception as error:  # the hub's errors, and those of the network libraries below it
            why = why or f'and the download failed: {type(error).__name__}'
            continue
        for other in BESIDE:
            try:
                get(other)
            except Exception:
                continue  # not every repository has them
        return None
    return why
