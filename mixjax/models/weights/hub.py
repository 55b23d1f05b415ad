"""Weights of the Hugging Face hub: `hf://OWNER/NAME[@REVISION]`, from its cache on disk or by a download.

A reference names its recipe: `timm/resnet50.tv_in1k` are torchvision's weights, `timm/resnet50.a1_in1k`
are others, and results with them are others too. The bare `timm/resnet50` is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.models import efficientnet, preprocessing
from mixjax.models.weights import download, shards

PREFIX = 'hf://'
FILES = download.FILES
BESIDE = ('config.json', 'preprocessor_config.json')  # files that describe the weights' images
CARD = 'README.md'  # a repository's card, which begins with the licence among other facts


def _known() -> dict[str, dict[str, Any]]:
    """Return the repositories whose network, classes, images and licence are known: from timm's registry."""
    out: dict[str, dict[str, Any]] = {}

    def add(
        tag: str, network: str, name: str = '', *, classes: int = 1000, licence: str = 'apache-2.0', **image: Any
    ) -> None:
        said = preprocessing.settings(**{'interpolation': 'bicubic', **image})
        out[f'timm/{name or network}.{tag}'] = {
            'model': network, 'classes': classes, 'image': said, 'licence': licence,
        }  # fmt: skip

    for depth in (18, 34, 50, 101, 152):
        resnet = f'resnet{depth}'
        add('tv_in1k', resnet, size=224, fraction=0.875, interpolation='bilinear', licence='bsd-3-clause')
        add('a1_in1k', resnet, size=224, fraction=0.95)
        if depth >= 50:
            add('tv2_in1k', resnet, size=224, fraction=0.965, interpolation='bilinear', licence='bsd-3-clause')
    add('tv_in1k', 'densenet121', size=224, fraction=0.875)
    for scale, (_, _, size, _, fraction) in efficientnet.SCALES.items():
        for tag in ('in1k', 'aa_in1k', 'ap_in1k', 'ns_jft_in1k'):
            colours = preprocessing.HALF if tag == 'ap_in1k' else preprocessing.IMAGENET
            network = f'efficientnet_{scale}'
            add(tag, network, f'tf_{network}', size=size, fraction=fraction, colours=colours)
    torch = {'b0.ra_in1k': 224, 'b1.ft_in1k': 224, 'b2.ra_in1k': 256, 'b3.ra2_in1k': 288, 'b4.ra2_in1k': 320}
    for name, size in torch.items():  # torch's padding
        scale, _, tag = name.partition('.')
        network = f'efficientnet_{scale}'
        add(tag, f'{network}_symmetric', network, size=size, fraction=0.875)
    add('in1k', 'efficientnet_lite0', 'tf_efficientnet_lite0', size=224, fraction=0.875, colours=preprocessing.HALF)

    for width in ('small', 'base', 'large'):  # without a classifier
        for kind in ('dinov2', 'reg4_dinov2'):
            add('lvd142m', f'vit_{width}_patch14_{kind}', size=518, fraction=1.0, classes=0)
        add('lvd1689m', f'vit_{width}_patch16_dinov3', size=256, fraction=1.0, classes=0, licence='dinov3-license')
    half = preprocessing.HALF
    add('v2_webli', 'vit_base_patch16_siglip_224', size=224, fraction=0.9, colours=half, classes=0)
    # Its projection to 512 numbers is no classifier.
    clip = 'vit_base_patch16_clip_quickgelu_224', 'vit_base_patch16_clip_224'
    add('openai', *clip, size=224, fraction=0.9, colours=preprocessing.CLIP, classes=0)
    for width in ('tiny', 'small', 'base'):
        add('augreg_in21k_ft_in1k', f'vit_{width}_patch16_224', size=224, fraction=0.9, colours=half)
        add('fb_in22k', f'convnext_{width}', size=224, fraction=0.875, classes=21841)
        add('fb_in22k_ft_in1k', f'convnext_{width}', size=224, fraction=0.875)
    for width in ('tiny', 'small'):
        add('in12k_ft_in1k', f'convnext_{width}', size=224, fraction=0.95)
    for width, tag in (('atto', 'fcmae_ft_in1k'), ('nano', 'fcmae_ft_in22k_in1k'), ('tiny', 'fcmae_ft_in22k_in1k')):
        add(tag, f'convnextv2_{width}', size=224, fraction=0.875, licence='cc-by-nc-4.0')
    add('r160_in1k', 'test_vit', size=160, fraction=0.95, colours=half)
    return out


KNOWN: Mapping[str, dict[str, Any]] = _known()


def network_of(architecture: str) -> str:
    """Return our name of an architecture of timm. Only their EfficientNets have other names here."""
    if architecture.startswith('tf_efficientnet_'):
        return architecture.removeprefix('tf_')
    return f'{architecture}_symmetric' if architecture.startswith('efficientnet_') else architecture


def architecture_of(network: str) -> str:
    """Return timm's name of a network of ours; the inverse of `network_of`."""
    if network.startswith('efficientnet_') and network.endswith('_symmetric'):
        return network.removesuffix('_symmetric')
    return f'tf_{network}' if network.startswith('efficientnet_') else network


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


def _places(reference: Reference) -> list[Path]:
    """Return the folders in the cache that may hold the revision, the likeliest first."""
    here = Path(os.path.expanduser(folder(reference)))  # not expanded where the user has no home
    try:
        commit = untrusted.read_regular(here / 'refs' / reference.revision, 1000).decode().strip()
    except (OSError, ValueError):
        commit = reference.revision  # a commit hash
    places = [here / 'snapshots' / commit]
    if reference.revision == 'main':
        places += sorted((here / 'snapshots').glob('*'))  # put there by hand
    return places


def cached_file(reference: Reference) -> Path | None:
    """Return the weights' file in the cache, or the index of several that are all there, or None."""
    return next((place / file for place in _places(reference) for file in FILES if _is_complete(place / file)), None)


def _is_complete(path: Path) -> bool:
    if not path.is_file() or not shards.is_index(path):
        return path.is_file()
    try:
        return all((path.parent / name).is_file() for name in shards.read(path))
    except (OSError, ValueError):
        return True  # reading it says what is wrong


def about(reference: Reference, path: Path | None) -> dict[str, Any]:
    """Return the known part of {'model', 'classes', 'image', 'licence'}: from the table or the files beside."""
    return {**({} if path is None else settings_beside(path)), **KNOWN.get(reference.repository, {})}


def described(reference: Reference) -> Path | None:
    """Return the path that the weights have or will have in the cache, with the files that describe them beside it.

    Before the weights themselves only those few kilobytes are downloaded. None if there is no way to them.
    """
    found = cached_file(reference)
    if found is not None:
        return found
    for again in (False, True):
        for place in _places(reference):
            if any((place / name).is_file() for name in (*BESIDE, 'model.json')):
                return place / FILES[0]
        if again:
            break
        try:
            download.fetch_beside(_source(reference))
        except (UserError, download.Unreachable):
            break  # the download of the weights says why
    return None


def settings_beside(path: Path) -> dict[str, Any]:
    """Return what the files beside foreign weights say of {'model', 'image', 'licence'}; {} if there are none."""
    out: dict[str, Any] = {}
    for name in BESIDE:
        try:
            said = untrusted.parse(untrusted.read_regular(path.parent / name, untrusted.MOST_TEXT))
            network = said.get('architecture')
            if isinstance(network, str) and re.fullmatch(r'\w{1,80}', network):
                out.setdefault('model', network_of(network))
            image = preprocessing.read_settings(said)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError):
            continue
        if image is not None:
            out.setdefault('image', image)
    licence = _licence(path.parent / CARD)
    return {**out, 'licence': licence} if licence else out


def _licence(card: Path) -> str:
    """Return the licence that a card states in its first lines, or ''."""
    try:
        text = untrusted.read_regular(card, 1 << 22).decode('utf-8', 'replace')
    except (OSError, ValueError):
        return ''
    lines = text.removeprefix('\ufeff').splitlines()[:1000]
    if not lines or lines[0].strip() != '---':
        return ''
    end = next((n for n, line in enumerate(lines[1:], 1) if line.strip() == '---'), 0)
    facts: dict[str, list[str]] = {}
    key = ''
    for line in lines[1:end]:
        start = re.match(r'(\w+)\s*:(.*)', line)
        item = re.match(r'\s*-\s+(.*)', line)
        if start:
            key = start[1]
            facts[key] = [start[2]]
        elif item and key:
            facts[key].append(item[1])

    def stated(key: str) -> str:
        values = ','.join(facts.get(key, [])).partition(' #')[0].strip(' []').split(',')
        return download.clean([value.strip(' \'"') for value in values])

    named = stated('license')
    return stated('license_name') or named if named in ('', 'other') else named


def _source(reference: Reference) -> download.Source:
    place = storage.resolve_links(storage.to_place(cache()).absolute())
    inner = place / Path(folder(reference)).name
    return download.Source(
        f'{PREFIX}{reference.repository}' + (f'@{reference.revision}' if reference.revision != 'main' else ''),
        reference.repository, reference.revision, place, storage.resolve_links(inner),
    )  # fmt: skip


def missing(spec: str) -> str | None:
    """Return None if the weights are here, after a download if that is possible; else a message on what to do."""
    reference = parse(spec)
    if cached_file(reference) is not None:
        return None
    try:
        download.fetch(_source(reference), lambda: cached_file(reference) is not None)
        return None
    except UserError as error:
        return str(error)
    except download.Unreachable as error:
        why = str(error)
    at = '' if reference.revision == 'main' else f' --revision {reference.revision}'
    return (
        f'the weights {spec} are missing; looked in\n'
        f'  {folder(reference)}: no such copy, and {why}\n'
        'to get them where there is a network:\n'
        f'  hf download {reference.repository} {FILES[0]} {BESIDE[0]}{at}\n'
        'or fetch that file on another machine and give --config.model.weights=PATH/model.safetensors'
    )
