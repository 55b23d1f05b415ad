"""Weights on disk: a `.safetensors` file of plain arrays, and beside it a `.json` that says what they are.

The pair is what a run leaves (`model.safetensors`, `model.json`) and what `config.model.weights` takes.
Tensors are named by their path, `params/backbone/stage1/..`; the classifier is the head `target`.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mixjax.errors import UserError

Tree = Any
EMBEDDED = ('glyphnet',)
HUB = 'hf://'
RANDOM = 'random://'  # followed by the number of classes: no file, a stand-in for trials
HUB_CLASSES = {'hf://timm/resnet50.tv_in1k': 1000}


class Weights(NamedTuple):
    """variables: params and batch_stats, numpy arrays. about: what the `.json` says (model, classes, image, ..)."""

    variables: Tree
    about: Mapping[str, Any]


def to_bytes(variables: Tree) -> bytes:
    """The `.safetensors` bytes of a variables tree; the same arrays give the same bytes."""
    flat = traverse_util.flatten_dict(variables, sep='/')
    return save_tensors({name: np.ascontiguousarray(flat[name]) for name in sorted(flat)})


def missing(spec: str) -> str | None:
    """None if the weights are here, else what is missing, where it was looked for, and how to get it."""
    if not spec:
        return None
    if spec.startswith(RANDOM):
        number = spec.removeprefix(RANDOM)
        fits = number.isdecimal() and 0 < int(number) < 10**6
        return None if fits else f'weights {spec}: write {RANDOM} and a number of classes'
    if spec.startswith(HUB):
        return _missing_from_hub(spec)
    if spec.startswith('embedded://'):
        name = spec.removeprefix('embedded://')
        return None if name in EMBEDDED else f'weights {spec}: the embedded weights are {", ".join(EMBEDDED)}'
    path = _tensor_file(Path(spec))
    if path.is_file():
        return None
    return (
        f'the weights {spec} are missing; looked for\n'
        f'  {path}\n'
        'give a run folder, a model.safetensors that mixjax wrote, or embedded://glyphnet'
    )


def _missing_from_hub(spec: str) -> str:
    repository = spec.removeprefix(HUB)
    home = os.environ.get('HF_HOME', '~/.cache/huggingface')
    folder = f'{home}/hub/models--{repository.replace("/", "--")}'
    if any(Path(folder).expanduser().glob('snapshots/*/model.safetensors')):
        return (
            f'weights {spec} lie in {folder}, but this version of mixjax reads only files that it wrote itself; '
            'give a run folder or embedded://glyphnet'
        )
    return (
        f'the weights {spec} are missing; looked in\n'
        f'  {folder}: no such copy\n'
        'to get them:\n'
        "  pip install 'mixjax[hub]'\n"
        f'  hf download {repository} model.safetensors'
    )


def classes(spec: str) -> int:
    """How many classes the weights' own classifier has, known without the file for the hub's."""
    return HUB_CLASSES[spec] if spec in HUB_CLASSES else len(load(spec).about['classes'])


def _tensor_file(path: Path) -> Path:
    return path / 'model.safetensors' if path.suffix != '.safetensors' else path


def load(spec: str) -> Weights:
    """Read weights that `missing` says are here.

    spec: `embedded://NAME`, a run folder, or a `.safetensors` file with its `.json` beside it.
    """
    problem = missing(spec)
    if problem:
        raise UserError(problem)
    if spec.startswith('embedded://'):
        folder = importlib.resources.files('mixjax.models')
        name = spec.removeprefix('embedded://')
        tensors, about = folder.joinpath(f'{name}.safetensors'), folder.joinpath(f'{name}.json')
    else:
        tensors = _tensor_file(Path(spec))
        about = tensors.with_suffix('.json')
        if not about.is_file():
            raise UserError(f'weights {spec}: {about.name} is not beside {tensors.name}; it says what the tensors are')
    try:
        variables = traverse_util.unflatten_dict(load_tensors(tensors.read_bytes()), sep='/')
        described = json.loads(about.read_text())
    except (OSError, ValueError, struct.error, SafetensorError) as error:
        raise UserError(f'weights {spec} cannot be read: {error}') from error
    if not isinstance(described, dict) or not _is_network(variables):
        raise UserError(f'weights {spec} were not written by mixjax: give a run folder or embedded://glyphnet')
    return Weights(variables, described)


def _is_network(variables: Tree) -> bool:
    """Whether a tree of arrays has the layout of `models.net`: a backbone, and heads of kernel and bias."""
    params = variables.get('params')
    if not isinstance(params, dict) or not isinstance(params.get('backbone'), dict):
        return False
    heads = params.get('heads', {})
    return isinstance(heads, dict) and all(
        isinstance(head, dict) and {'kernel', 'bias'} == head.keys() and head['bias'].ndim == 1
        for head in heads.values()
    )


def fit(spec: str, given: Tree, wanted: Tree) -> None:
    """Check that every tensor has its place: all that are unused, missing or misshapen, in one error.

    Args:
      given, wanted: variables trees; of `wanted` only the shapes matter.
    """

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep='/')
        return {name: tuple(leaf.shape) for name, leaf in flat.items()}

    have, want = shapes(given), shapes(wanted)
    wrong = [f'{name} is not in the file' for name in sorted(want.keys() - have.keys())]
    wrong += [f'{name} has no place in the network' for name in sorted(have.keys() - want.keys())]
    wrong += [
        f'{name} has shape {have[name]}, the network {want[name]}'
        for name in sorted(have.keys() & want.keys())
        if have[name] != want[name]
    ]
    if wrong:
        shown = wrong[:20] + ([f'and {len(wrong) - 20} more'] if len(wrong) > 20 else [])
        raise UserError(f'weights {spec} do not fit the network:\n  ' + '\n  '.join(shown))
