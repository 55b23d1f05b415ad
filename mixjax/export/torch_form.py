"""Networks under the names of torch libraries, as safetensors: `timm` and `torchvision`.

A folder of timm is what `timm.create_model('local-dir:FOLDER', pretrained=True)` opens, and what transformers opens as
one of timm's networks. torchvision has no format of its own: there the tensors go into `load_state_dict`, and
`preprocessing.json` has the classes and the settings of its transforms.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mixjax import models
from mixjax.data.pixels.photo import Rule
from mixjax.errors import UserError
from mixjax.export import network as networks
from mixjax.export.network import Exported
from mixjax.host.storage import Place
from mixjax.models import registry
from mixjax.models.weights import hub, tensor_names

Tree = Any
WEIGHTS = 'model.safetensors'
# Networks of torchvision, by our names.
IN_TORCHVISION = {
    'densenet121', *[f'resnet{depth}' for depth in (18, 34, 50, 101, 152)],
    *[f'convnext_{size}' for size in ('tiny', 'small', 'base', 'large')],
    *[f'efficientnet_b{k}_symmetric' for k in range(5)],
}  # fmt: skip


class Library(NamedTuple):
    """A torch library.

    Attributes:
      name: its name, and that of the form.
      has: returns whether it has a network of ours, which computes the same there.
      dialects: names of `tensor_names.dialects` in its layout, the first that a network has.
      beside: returns the other files of the folder: {name: contents}.
      open: returns the forward pass by the library: normalised images (n, C, H, W) -> logits.
    """

    name: str
    has: Callable[[str], bool]
    dialects: tuple[str, ...]
    beside: Callable[[Exported], dict[str, str]]
    open: Callable[[Place, Exported], Callable[[np.ndarray], np.ndarray]]


def dialect_of(exported: Exported, library: Library) -> str:
    """Return the name of the dialect that a library reads; refuse a network that it does not have."""
    name = exported.about['model']
    found = [one for one in library.dialects if one in tensor_names.dialects(name)]
    if not found or not library.has(name):
        raise UserError(
            f'{library.name} has no network that computes what {name} does; use --to=onnx, --to=stablehlo or '
            '--to=safetensors'
        )
    return found[0]


def contents(exported: Exported, library: Library) -> dict[str, bytes]:
    """Return the files of a network for a library, {name: contents}."""
    dialect = dialect_of(exported, library)
    variables = networks.one_head(exported, library.name)
    tensors = tensor_names.to_torch(exported.about['model'], variables, dialect, 'target')
    tensors = {name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}
    beside = {name: text.encode() for name, text in library.beside(exported).items()}
    return {WEIGHTS: save_tensors(tensors, {'format': 'pt'}), **beside}


def logits(folder: Place, exported: Exported, library: Library) -> tuple[np.ndarray, str]:
    """Return what a written folder says of the samples, by the library or else by our own reader, and which it was."""
    x = networks.inputs(exported)
    if not is_installed(library.name):
        return read_back(folder, exported, library)(x), f'mixjax, without {library.name}'
    return library.open(folder, exported)(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), library.name


def is_installed(name: str) -> bool:
    """Return whether torch and a library can be imported; they may be there and not fit one another."""
    try:
        importlib.import_module('torch')
        importlib.import_module(name)
    except Exception:
        return False
    return True


def read_back(folder: Place, exported: Exported, library: Library) -> Callable[[np.ndarray], np.ndarray]:
    """Return the forward pass of our own network with a written file's tensors."""
    variables = tensors_read_back(folder, exported, library)
    net = exported.predictor.network.net
    return lambda x: np.asarray(net.apply(variables, jnp.asarray(x), train=False)[0].logits['source'])


def tensors_read_back(folder: Place, exported: Exported, library: Library) -> Tree:
    """Return our variables with the tensors of a written file; its classifier is the head `source`."""
    own = exported.predictor.network.variables
    heads = {'source': own['params']['heads']['target']}
    wanted = {**own, 'params': {**own['params'], 'heads': heads}}
    return tensor_names.from_torch(exported.about['model'], load_tensors((folder / WEIGHTS).read_bytes()), wanted)


def maps(folder: Place, exported: Exported, library: Library) -> dict[str, np.ndarray]:
    """Return the network's maps with a written file's tensors, in their order."""
    net, x = exported.predictor.network.net, jnp.asarray(networks.inputs(exported)[:2])
    out = net.apply(tensors_read_back(folder, exported, library), x, train=False)[0]
    return {**{name: np.asarray(value) for name, value in out.maps.items()}, 'features': np.asarray(out.features)}


def in_timm(name: str) -> bool:
    """Return whether timm has a network of ours; it has none with the padding of one size, or for small images."""
    return name in registry.SHIPPED and '_fixed' not in name and not name.startswith('cifar_')


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_config(exported: Exported) -> dict[str, str]:
    """Return timm's `config.json`: the architecture, its classes and its preprocessing."""
    about, predictor = exported.about, exported.predictor
    geometry, rule = predictor.network.geometry, predictor.rule
    colours = len(geometry.mean) if len(geometry.mean) > 1 else rule.channels
    names = list(predictor.classes)
    first, last = layers_of(exported)
    pretrained: dict[str, Any] = {
        'input_size': [colours, geometry.crop, geometry.crop],
        'fixed_input_size': False,
        'interpolation': rule.interpolation,
        'crop_pct': crop_share(geometry.crop, rule),
        'crop_mode': 'squash' if rule.fit == 'squash' else 'center',
        'mean': [float(value) for value in geometry.mean] * (colours // len(geometry.mean)),
        'std': [float(value) for value in geometry.std] * (colours // len(geometry.std)),
        'num_classes': len(names),
        'first_conv': first,
        'classifier': last,
    }
    if about.get('licence'):
        pretrained['license'] = about['licence']
    config: dict[str, Any] = {
        'architecture': hub.architecture_of(about['model']),
        'num_classes': len(names),
        'num_features': int(predictor.network.variables['params']['heads']['target']['kernel'].shape[0]),
        'label_names': names,
        'pretrained_cfg': pretrained,
    }
    if models.family(about['model']) in ('vit', 'dinov3'):
        # Positions stay on the published grid, and are resized in the forward pass, as ours are. Without the size timm
        # would put them on the grid of its default, and resize them twice.
        native = models.image_settings(about['model'])['crop']
        config['model_args'] = {'img_size': native, 'dynamic_img_size': True}
    return {'config.json': json.dumps(config, indent=2, ensure_ascii=False) + '\n'}


def layers_of(exported: Exported) -> tuple[str, str]:
    """Return the names of the first convolution and of the classifier in timm."""
    known = tensor_names.dialects(exported.about['model'])
    dialect = known[dialect_of(exported, TIMM)]
    return dialect.layer(tensor_names.STEM), dialect.layer(('heads', 'source'))


def crop_share(crop: int, rule: Rule) -> float:
    """Return the share `crop_pct` from which timm computes the size before the crop: floor(crop / share)."""
    share = crop / rule.side
    while math.floor(crop / share) < rule.side:
        share = math.nextafter(share, 0)
    return share


def open_timm(folder: Place, exported: Exported) -> Callable[[np.ndarray], np.ndarray]:
    """Open a folder as timm's users do."""
    import timm  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    model = timm.create_model(f'local-dir:{folder}', pretrained=True).train(False)
    return lambda x: _forward(torch, model, x)


def _forward(torch: Any, model: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision_name(exported: Exported) -> str:
    """Return the name of the function in `torchvision.models`."""
    return exported.about['model'].removesuffix('_symmetric')


def torchvision_settings(exported: Exported) -> dict[str, str]:
    """Return `preprocessing.json`: classes, and the arguments of torchvision's `ImageClassification` transform."""
    predictor = exported.predictor
    geometry, rule = predictor.network.geometry, predictor.rule
    said = {
        'model': torchvision_name(exported),
        'classes': list(predictor.classes),
        'resize_size': rule.side if rule.fit == 'short' else [rule.side, rule.side],
        'crop_size': geometry.crop,
        'interpolation': rule.interpolation,
        'mean': [float(value) for value in geometry.mean],
        'std': [float(value) for value in geometry.std],
    }
    if exported.about.get('licence'):
        said['licence'] = exported.about['licence']
    return {'preprocessing.json': json.dumps(said, indent=2, ensure_ascii=False) + '\n'}


def open_torchvision(folder: Place, exported: Exported) -> Callable[[np.ndarray], np.ndarray]:
    """Open a folder as torchvision's users do."""
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]

    build = getattr(torchvision.models, torchvision_name(exported))
    model = build(num_classes=len(exported.predictor.classes))
    tensors = load_tensors((folder / WEIGHTS).read_bytes())
    model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
    return lambda x: _forward(torch, model.train(False), x)


TIMM = Library('timm', in_timm, ('timm', 'torchvision'), timm_config, open_timm)
TORCHVISION = Library(
    'torchvision', IN_TORCHVISION.__contains__, ('torchvision',), torchvision_settings, open_torchvision
)


def predicts(exported: Exported, found: np.ndarray) -> np.ndarray:
    """Return what a user sees of logits whose temperature and units are in the classifier already."""
    predictor = exported.predictor
    return found if predictor.task.scaled else predictor.task.values(found, None)
