"""Measures that make pictures: soft targets, class activation maps, two-dimensional embeddings."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import mix
from mixjax.analysis import cam, class_maps, embedding, opened, soft_targets
from mixjax.analysis import interpolation as il
from mixjax.analysis.measures import Asked, Found, about
from mixjax.analysis.opened import Network, Run
from mixjax.errors import UserError, nearest
from mixjax.train.results import spread

Array = jax.Array
GLOBAL = 'global'  # the head whose softmax of sigmoids is the learned part of a soft target
BINS = 50
TOP = 5
SHOWN = 4  # images of a class


def chosen_classes(run: Run, asked: Asked, default: int) -> np.ndarray:
    """Return the labels of the classes that `asked` names; without names, of the first classes.

    Args:
      run: the run.
      asked: the settings of the command.
      default: number of classes without names; 0 for all.
    """
    for name in asked.classes:
        if name not in run.classes:
            raise UserError(f'--classes: there is no class {name!r}{nearest(name, run.classes)}')
    if asked.classes:
        return np.array([run.classes.index(name) for name in asked.classes])
    return np.arange(len(run.classes))[: default or None]


# --- soft targets -----------------------------------------------------------------------------------------------------


def targets(run: Run, asked: Asked) -> Found:
    """Return the soft targets of labelled images, original and mixed: at the end, and during the first seed's training.

    As in training, batch statistics are used and lam is one number for each batch; unlike in training, nothing is
    cropped or flipped, and the images, their partners and every lam are the same at all steps. The means are over all
    batches of every seed whose network exists; the histograms are of one fixed batch of the first seed.
    """
    through = [one for one in opened.through_training(run) if GLOBAL in one.heads]
    networks, notes = opened.networks(run, asked.seeds)
    networks = [*through[-1:], *(one for one in networks if one.seed != run.config.seed and GLOBAL in one.heads)]
    if not through:
        raise UserError(
            f'{run.folder}: its network has no head {GLOBAL!r} that learns soft targets, as lamix has (and its '
            'checkpoint must still be there: model.safetensors holds only what prediction needs)'
        )
    method = run.config.method
    if method.get('mixing', 'mixup') != 'mixup':
        raise UserError(f'{run.folder}: soft targets are measured on averaged images (mixing=mixup) only')
    beta, made = float(method.get('beta', 0.5)), {one.seed: _batches(run, one.seed, asked) for one in networks}
    low, high = soft_targets.bounds(len(run.classes))
    arrays: dict[str, Any] = {'step': np.array([one.step for one in through]), 'bounds': np.array([low, high])}
    tops, most = {}, {}
    for kind in ('original', 'mixed'):
        ends = [_targets(run, one, made[one.seed], kind, beta) for one in networks]
        each = np.stack([soft_targets.top(np.concatenate(t), min(TOP, len(run.classes))) for t, _ in ends])
        tops[kind], arrays[f'{kind}_top'] = each.mean(0).tolist(), each
        most[kind] = float(np.mean([np.concatenate(p).max(-1).mean() for _, p in ends]))
        fixed = [_targets(run, one, made[one.seed][:1], kind, beta) for one in through]
        arrays[f'{kind}_target'] = np.stack([soft_targets.histogram(t[0], 0, 1, BINS) for t, _ in fixed])
        arrays[f'{kind}_global'] = np.stack([soft_targets.histogram(p[0], 0, high, BINS) for _, p in fixed])
        arrays[f'{kind}_global_max'] = np.array([p[0].max(-1).mean() for _, p in fixed])
    if len(through) == 1:
        notes = [*notes, 'one step only: set config.snapshots to see how the targets evolve']
    first = made[run.config.seed]
    sizes = {'images': sum(len(label) for _, label, _, _ in first), 'batch': len(first[0][1])}
    settings = about(networks, **sizes, steps=arrays['step'].tolist(), beta=beta)
    return Found({'top': tops, 'global_max': most, 'bounds': [low, high], **settings}, arrays, notes)


def _batches(run: Run, seed: int, asked: Asked) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Return whole batches of a seed's labelled images, (image, label, partner, lam), with one lam for each batch."""
    examples = run.examples(seed, 'train', asked.images)
    order = np.random.RandomState(0).permutation(len(examples.label))
    size = min(run.config.batch_size, len(order))
    starts = range(0, len(order) - size + 1, size)
    lams = soft_targets.lams(len(starts), np.random.RandomState(1))
    if run.config.method.get('local_label') == 'mean':
        lams[:] = 0.5
    out = []
    for start, lam in zip(starts, lams, strict=True):
        rows = order[start : start + size]
        out.append((examples.image[rows], examples.label[rows], il.partners(size), float(lam)))
    return out


def _targets(run: Run, network: Network, made: list, kind: str, beta: float) -> tuple[list, list]:
    """Return the targets and their learned parts, (B, c) for each batch."""

    def head(variables: Any, x: Any) -> Any:
        return run.net.apply(variables, x, train=True)[0].logits[GLOBAL]

    program = run.programs.setdefault((GLOBAL, 'train'), jax.jit(head))
    found: tuple[list, list] = ([], [])
    for image, label, partner, lam in made:
        x, share = run.test_inputs(image), jnp.asarray(1.0)
        if kind == 'mixed':
            x, share = mix.blend(jnp.asarray(0.5), x, x[partner]), jnp.asarray(lam, jnp.float32)
        local = soft_targets.local_label(jnp.asarray(label), jnp.asarray(label[partner]), share, len(run.classes))
        for place, array in zip(found, soft_targets.target(local, program(network.variables, x), beta), strict=True):
            place.append(np.asarray(array))
    return found


# --- class activation maps --------------------------------------------------------------------------------------------


def activation(run: Run, asked: Asked) -> Found:
    """Return class activation maps of the true class on test images: their mean area, and a few of the maps."""
    networks, notes = opened.networks(run, asked.seeds)
    areas: list[float] = []
    empty = 0
    arrays: dict[str, np.ndarray] = {}
    for network in networks:
        examples = run.examples(network.seed, 'test', asked.images)
        keep = np.isin(examples.label, chosen_classes(run, asked, 0))
        image, label = examples.image[keep], examples.label[keep]
        if not len(label):
            raise UserError(f'{run.folder}: there is no test image of {", ".join(asked.classes)}')
        x = run.test_inputs(image)
        found = run.forward(network)(x)
        small, place = _class_maps(run, network, x, jnp.asarray(label), found['features'])
        shares = cam.positive(cam.enlarge(small, *x.shape[1:3]))
        mean, without = cam.mean_area(shares)
        areas.append(mean)
        empty += without
        if not arrays:
            rows = _first_of_each(label, chosen_classes(run, asked, 2))
            arrays = {
                'image': _crop(image[rows], x.shape[1:3]),
                'cam': np.asarray(shares[rows]),
                'label': label[rows],
                'predicted': np.asarray(found['logits'].argmax(-1))[rows],
            }
    if all(map(math.isnan, areas)):
        raise UserError(f'{run.folder}: no class activation map of a test image is positive anywhere')
    area = spread([one for one in areas if not math.isnan(one)])
    about_them = {'images': int(keep.sum()), 'left out': empty, 'level': 0.5, 'classes': list(asked.classes) or 'all'}
    if place != 'last':
        about_them['map'] = f'gradient-weighted at {place}'
    return Found({'area': area, **about(networks, **about_them)}, {**arrays, 'area': np.array(areas)}, notes)


def _class_maps(run: Run, network: Network, x: Array, label: Array, features: Array) -> tuple[Array, str]:
    """Return the map (n, h, w) of each image's class, and the name of the map of the network that it is made of."""
    source = class_maps.Source(
        run.net, network.variables, opened.predictor(run, network),
        lambda: opened.classifier(run, network)['kernel'], run.batch, run.programs,
        f'{run.config.model.name} ({run.folder})',
    )  # fmt: skip
    return class_maps.class_maps(source, class_maps.Inputs(x, label, features, run.maps(network, 'last')(x)))


def _first_of_each(label: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the first few rows of each class."""
    return np.concatenate([np.flatnonzero(label == k)[:SHOWN] for k in classes])


def _crop(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Crop stored images (n, H, W, C) to what the network sees; smaller ones get a black border, as in a test."""
    lack = [(max(want - have, 0) + 1) // 2 for want, have in zip(size, image.shape[1:3], strict=True)]
    image = np.pad(image, ((0, 0), (lack[0],) * 2, (lack[1],) * 2, (0, 0)))
    row, column = ((have - want) // 2 for want, have in zip(size, image.shape[1:3], strict=True))
    return image[:, row : row + size[0], column : column + size[1]]


# --- the two units of a bottleneck ------------------------------------------------------------------------------------


def plane(run: Run, asked: Asked) -> Found:
    """Return the two units of a bottleneck for labelled images, and the separation of the classes by them.

    The pictures are of the first seed's snapshots. Separation and training accuracy are measured for every seed, at
    the checkpoints that exist.
    """
    through = opened.through_training(run)
    if not run.config.model.name.endswith('_plane'):
        raise UserError(
            f'{run.folder}: {run.config.model.name} has no bottleneck of two units; train one of the networks '
            'that have, preactresnet18_plane or glyphnet_plane'
        )
    x, label = _labelled(run, run.config.seed, asked)
    codes, apart_of, accuracies = zip(*(_in_plane(run, network, x, label) for network in through), strict=True)
    networks, notes = opened.networks(run, asked.seeds)
    saved = {one.seed: {step: _at(run, step, one, asked) for step in opened.saved(run, one)} for one in networks}
    steps = sorted(set.intersection(*(set(found) for found in saved.values())))
    each = np.array([[found[step] for step in steps] for found in saved.values()])  # (seeds, steps, 2)
    numbers = {
        'steps': [one.step for one in through],
        # JSON has no infinity: None, where each class is one point.
        'separation': [_finite(apart) for apart in apart_of],
        'train accuracy': list(accuracies),
        'checkpoints': {
            'steps': steps,
            'separation': [spread(column.tolist()) if np.isfinite(column).all() else None for column in each[..., 0].T],
            'train accuracy': [spread(column.tolist()) for column in each[..., 1].T],
        },
        **about(networks, images=len(label), classes=[run.classes[k] for k in np.unique(label)]),
    }
    if len(through) == 1:
        notes = [*notes, 'one step only: set config.snapshots to see how the classes come apart']
    arrays = {'codes': np.stack(codes), 'label': label, 'step': np.array(numbers['steps'])}
    arrays |= {'separation': np.where(np.isfinite(each[..., 0]), each[..., 0], np.nan), 'accuracy': each[..., 1]}
    return Found(numbers, arrays, notes)


def _labelled(run: Run, seed: int, asked: Asked) -> tuple[Any, np.ndarray]:
    """Return network inputs and labels of a seed's labelled images of the classes that `asked` names."""
    examples = run.examples(seed, 'train', asked.images)
    keep = np.isin(examples.label, chosen_classes(run, asked, 0))
    return run.test_inputs(examples.image[keep]), examples.label[keep]


def _in_plane(run: Run, network: Network, x: Any, label: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the two numbers of each image, the separation of the classes by them, and the accuracy."""
    codes = np.asarray(run.maps(network, 'plane')(x)).reshape(-1, 2)
    right = np.asarray(run.forward(network)(x)['logits']).argmax(-1) == label
    return codes, embedding.separation(codes, label), float(right.mean())


def _at(run: Run, step: int, last: Network, asked: Asked) -> tuple[float, float]:
    """Return separation and training accuracy of a seed at the step of one of its checkpoints."""
    network = last if step == last.step else opened.checkpointed(run, last.seed, step)
    return _in_plane(run, network, *_labelled(run, last.seed, asked))[1:]


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
