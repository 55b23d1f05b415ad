"""Before the first step of a seed: what `prepare` makes, the initial state."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mixjax.config.validate import TINY
from mixjax.data.feed import augment, plan
from mixjax.data.feed.augment import Geometry
from mixjax.data.pixels import decoded_cache
from mixjax.errors import UserError, user_code
from mixjax.host import untrusted
from mixjax.host.array_cache import Cache
from mixjax.host.progress import Bar
from mixjax.host.storage import Place
from mixjax.maths import class_pairing
from mixjax.method import Aux, Ctx, Data, Head, Method, Part, Prepared, Run, Segments
from mixjax.models.net import Net, bind
from mixjax.rundir import files
from mixjax.train import contract, optim
from mixjax.train.step import TrainState, check_carry, keys

Array = jax.Array
Tree = Any
Read = Callable[[np.ndarray], np.ndarray]


# --- what the method makes --------------------------------------------------------------------------------------------


def part(
    classes: tuple[str, ...], labels: np.ndarray, read: Read, features: Callable[[Array], Array], geometry: Geometry,
    *, batch: int, key: Array, sizes: np.ndarray | None = None, cache: Cache | None = None,
) -> Part:  # fmt: skip
    """The method's view of one set of training examples.

    Args:
      read: rows -> uint8 images. features: images -> (B, d) pretrained features.
      batch: size of the passes over the data. sizes: images of each class, where not all are here.
      cache: of the means, shared by the seeds, where they share the examples.
    """

    def batches(size: int, augmented: bool = False, per_class: int | None = None) -> Iterator[dict[str, Array]]:
        def make(rows: np.ndarray, change: Callable[[Array], Array]) -> dict[str, Array]:
            image = change(jnp.asarray(read(rows)))
            return {'image': image, 'label': jnp.asarray(labels[rows]), 'index': jnp.asarray(rows)}

        chosen = some_of_each(labels, len(classes), per_class)
        if not augmented:
            for start in range(0, len(chosen), size):
                yield make(chosen[start : start + size], lambda x: augment.centred(x, geometry))
            return
        order, change = jax.random.split(key)
        step = 0
        while True:
            rows = chosen[np.asarray(plan.epochs(order, jnp.asarray(step), size, len(chosen)))]
            crop = jax.random.fold_in(change, step)
            yield make(rows, lambda x, crop=crop: augment.train(crop, x, geometry))
            step += 1

    def means(per_class: int | None) -> np.ndarray:
        rows = some_of_each(labels, len(classes), per_class)
        decoded_cache.ensure(read, rows, must=False)

        def passed() -> Iterator[tuple[Array, np.ndarray]]:
            for start in range(0, len(rows), batch):
                here = rows[start : start + batch]
                images = read(here)
                bar.add(len(here))
                filled = images[np.arange(batch) % len(here)]  # one shape, one compilation
                yield features(augment.centred(jnp.asarray(filled), geometry)), labels[here]

        def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            # A batch is read while the one before it is on its way through the network.
            end: list[Any] = [()]
            for (found, own), _ in itertools.pairwise(itertools.chain(passed(), end)):
                yield np.asarray(found)[: len(own)], own

        bar = Bar(len(rows), f'mean features of {len(classes):,} classes')
        try:
            return class_pairing.centroids_of(parts(), len(classes))
        finally:
            bar.close()

    kept = Cache(Path(), None) if cache is None else cache

    def class_means(per_class: int | None = None) -> np.ndarray:
        return kept.get(f'class means of {per_class or "all"}', lambda: means(per_class or None))

    counted = np.bincount(labels, minlength=len(classes)) if sizes is None else sizes
    return Part(classes, labels, counted, batches, class_means)


def some_of_each(labels: np.ndarray, classes: int, per_class: int | None) -> np.ndarray:
    """At most `per_class` rows of each class, always the same ones, ascending; None takes all."""
    if per_class is None:
        return np.arange(len(labels))
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = [shuffled[labels[shuffled] == c][:per_class] for c in range(classes)]
    return np.sort(np.concatenate(by_class))


# --- the initial state ------------------------------------------------------------------------------------------------


def heads(method: Method, classes_t: int, classes_s: int, made: Prepared) -> dict[str, Head]:
    """The method's heads; a bare number is short for `Head(number)`."""
    return contract.heads(method, method.heads(classes_t, classes_s, made), classes_s)


def initial_params(
    program: Callable[[Array], Tree], wanted: Mapping[str, Head], key: Array, start: Tree | None, dtype: Any,
    trunk: Tree | None = None,
) -> tuple[Tree, Tree]:  # fmt: skip
    """(params, model_state) from the program of `initialiser`, the pretrained network and the heads' rows.

    trunk: variables whose backbone and statistics take the pretrained network's place.
    """
    made = jax.tree.map(lambda x: x.astype(dtype), program(key))
    heads = {
        name: begin(head, wanted[name], jax.random.fold_in(key, zlib.crc32(name.encode())), start)
        for name, head in made['params'].get('heads', {}).items()
    }
    begin_from = trunk or start or made
    params = {**begin_from['params'], 'heads': heads}
    return params, {name: tree for name, tree in begin_from.items() if name != 'params'}


def initialiser(net: Net, wanted: Mapping[str, Head], image: Array, pretrained: bool) -> Callable[[Array], Tree]:
    """The compiled net.init; of a pretrained network only the heads are new, so only they are computed."""
    widths = {name: head.width for name, head in wanted.items()}

    def init(key: Array) -> Tree:
        variables = net.init(key, image, widths)
        return {'params': {'heads': variables['params'].get('heads', {})}} if pretrained else variables

    return jax.jit(init)


def try_step(
    net: Net, method: Method, run: Run, image: Array, made: Prepared, data: Data, start: Tree | None, config: Any,
    dtype: Any, compiled: dict,
) -> None:  # fmt: skip
    """Refuse what the method cannot begin, train or predict with, before anything is trained or written.

    Shapes only, so nothing is compiled; but where `init` works on the host (numpy, passes over the data), it is
    called once more than it would be.

    compiled: as in `initial_state`.
    """
    wanted = wanted_heads(net, method, made, data, start)
    key = keys(jax.random.key(config.seed)).init
    init = initialiser(net, wanted, image, start is not None)

    def began(key: Array) -> tuple[Tree, Tree, Tree]:
        params, model_state = initial_params(init, wanted, key, start, dtype)
        state = method.init(net, params, made, data)
        contract.state(method, state)
        return params, model_state, state

    params, model_state = jax.eval_shape(lambda key: initial_params(init, wanted, key, start, dtype), key)
    _something_learns(net, method, params, config)
    try:
        state = jax.eval_shape(began, key)[2]
    except UserError as error:
        if error.__cause__ is None:
            raise
        state = initial(net, method, image, key, wanted, made, data, start, dtype, compiled)[2]
    batch = config.batch_size // config.accumulate
    groups = config.mix.groups // config.accumulate or 1

    def step(params: Tree, model_state: Tree, state: Tree, key: Array, images: Array, label: Array) -> Any:
        example = {'image': images, 'label': label, 'index': label, 'partner': label.reshape(groups, -1)}
        if made.draw is not None and method.first is None:
            example |= {'source_image': images, 'source_label': label}
        frozen = jax.tree.map(jnp.asarray, made.frozen)
        ctx = Ctx(model_state, state, frozen, example, key, jnp.zeros((), jnp.int32), run)

        def loss(params: Tree) -> tuple[Array, Aux]:
            returned = method.loss(net, params, ctx)
            contract.loss(method, returned, model_state)
            check_carry(returned[1], config.accumulate)
            return returned

        with user_code(contract.place(method.loss, 'loss'), method.loss):
            (_, aux), _ = jax.value_and_grad(loss, has_aux=True)(params)
        out, _ = net.apply({'params': params, **model_state}, images, train=False)
        contract.predicted_head(method, out.logits)
        contract.predict(method, method.predict(out), batch, len(data.target.classes))
        contract.after_step(method, method.after_step(net, params, params, aux, ctx), params, state)

    images = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    jax.eval_shape(step, params, model_state, state, jax.random.key(0), images, label)


def _something_learns(net: Net, method: Method, params: Tree, config: Any) -> None:
    """Refuse a run in which the optimiser moves no parameter, unless the method moves them itself."""
    factors = optim.factors(method.groups, net.group, params, config.optim)
    rates = jax.tree.leaves(jax.tree.map(lambda _, pair: pair[0], params, factors))
    if any(config.optim.lr * rate >= TINY for rate in rates):
        return
    said = [f'config.optim.{key}={",".join(config.optim[key])}' for key in ('freeze', 'factors') if config.optim[key]]
    if said:
        raise UserError(
            f'{" and ".join(said)} {"leave" if len(said) > 1 else "leaves"} nothing to train'
            f'{", together with what the method freezes" if method.groups else ""}; let a part of the network learn'
        )
    if contract.is_default(method, 'after_step'):
        raise UserError(
            f'method {config.method.name}: its groups freeze every part of the network, and it has no after_step, so '
            'nothing would be trained'
        )


def wanted_heads(net: Net, method: Method, made: Prepared, data: Data, start: Tree | None) -> dict[str, Head]:
    """The method's heads, refused where they start from a pretrained classifier that is not there."""
    wanted = heads(method, len(data.target.classes), 0 if start is None else width(start), made)
    if start is None and any(head.rows is not None and (np.asarray(head.rows) >= 0).any() for head in wanted.values()):
        net.pretrained()  # raises: there is none
    if start is not None and 'target' in start['params']['heads']:
        if 'target' not in wanted:
            raise UserError(
                "config.model.head=keep needs a method with a head 'target'; this one has "
                + ' and '.join(repr(name) for name in wanted)
            )
        width_t = len(start['params']['heads']['target']['bias'])
        # A first stage has other classes, and a method may have its own idea of the rows.
        if wanted['target'].rows is None and wanted['target'].width == width_t:
            wanted['target'] = wanted['target']._replace(rows=np.arange(width_t))
    return wanted


def begin(drawn: Tree, head: Head, key: Array, start: Tree | None) -> Tree:
    """A head as it begins: drawn by torch's law or by the head's own, with the pretrained rows it names."""
    if head.std is not None:
        kernel = head.std * jax.random.normal(key, drawn['kernel'].shape, drawn['kernel'].dtype)
        drawn = {'kernel': kernel, 'bias': jnp.zeros_like(drawn['bias'])}
    return drawn if head.rows is None or start is None else copy_rows(drawn, head, start)


def copy_rows(fresh: Tree, head: Head, start: Tree) -> Tree:
    """A fresh head with the classes that `head.rows` names taken over from the pretrained classifier."""
    classifier = start['params']['heads'].get('source')
    rows = np.asarray(head.rows)
    taken = np.flatnonzero(rows >= 0)
    if len(rows) != head.width:
        raise UserError(f'a head of width {head.width} names {len(rows)} rows; they must be as many')
    if len(taken) == 0:
        return fresh
    if classifier is None or rows.max() >= classifier['bias'].shape[0]:
        raise UserError('the method starts from the pretrained classifier, which the weights do not hold')
    kernel = fresh['kernel'].at[:, taken].set(classifier['kernel'][:, rows[taken]])
    return {'kernel': kernel, 'bias': fresh['bias'].at[taken].set(classifier['bias'][rows[taken]])}


def initial_state(
    net: Net, method: Method, tx: optax.GradientTransformation, image: Array, seed_key: Array,
    made: Prepared, data: Data, start: Tree | None, dtype: Any, compiled: dict, trunk: Tree | None = None,
) -> TrainState:  # fmt: skip
    """The state at step 0.

    compiled: programs kept for the next seed, by the widths of the heads. trunk: as in `initial_params`.
    """
    wanted = wanted_heads(net, method, made, data, start)
    key = keys(seed_key).init
    params, model_state, state = initial(net, method, image, key, wanted, made, data, start, dtype, compiled, trunk)
    ts = TrainState(jnp.zeros((), jnp.int32), seed_key, params, model_state, tx.init(params), state)
    # The program reuses the memory of its state: nothing in it may be shared, with `start` least of all.
    return jax.tree.map(jnp.array, ts)


def initial(
    net: Net, method: Method, image: Array, key: Array, wanted: Mapping[str, Head], made: Prepared, data: Data,
    start: Tree | None, dtype: Any, compiled: dict, trunk: Tree | None = None,
) -> tuple[Tree, Tree, Tree]:  # fmt: skip
    """(params, model_state, the method's state) at step 0; arguments as of `initial_state`."""
    widths = tuple((name, head.width) for name, head in wanted.items())
    if widths not in compiled:
        compiled[widths] = initialiser(net, wanted, image, start is not None)
    params, model_state = initial_params(compiled[widths], wanted, key, start, dtype, trunk)
    state = method.init(net, params, made, data)
    contract.state(method, state)
    return params, model_state, state


def width(start: Tree) -> int:
    """Number of classes that the pretrained classifier knows; 0 without one."""
    classifier = start['params'].get('heads', {}).get('source')
    return 0 if classifier is None else int(classifier['bias'].shape[0])


def view(net: Net, start: Tree | None) -> tuple[Net, Callable[[Array], Array]]:
    """The net as `prepare` and `init` see it, and pretrained features of images; made once, compiled once."""
    # A key for dropout, for what `prepare` trains; the same for all.
    bound = bind(net, start, jax.random.key(0))
    if start is None:
        return bound, lambda image: bound.source(image).features
    compiled = jax.jit(lambda variables, image: net.apply(variables, image, train=False)[0])
    features = jax.jit(lambda variables, image: net.apply(variables, image, train=False)[0].features)
    return bound._replace(source=lambda image: compiled(start, image)), lambda image: features(start, image)


# --- the file of what was prepared ------------------------------------------------------------------------------------


def save_prepared(path: Place, prepared: Prepared) -> None:
    """frozen, draw and notes as one .npz of plain arrays, keys joined by '/'."""
    if prepared.frozen != () and not isinstance(prepared.frozen, dict):
        raise UserError('what prepare() makes as `frozen` must be a dict of arrays')
    arrays = {}
    if prepared.frozen != ():
        leaves = traverse_util.flatten_dict(prepared.frozen)
        if any('/' in str(part) for key in leaves for part in key):
            raise UserError('the keys of what prepare() makes as `frozen` must have no / in them')
        arrays |= {f'frozen/{"/".join(key)}': np.asarray(value) for key, value in leaves.items()}
    if prepared.draw is not None:
        fields = prepared.draw._asdict().items()
        arrays |= {f'draw/{key}': np.asarray(value) for key, value in fields if value is not None}
    arrays |= {f'notes/{key}': np.asarray(float(value)) for key, value in prepared.notes.items()}
    for key, array in arrays.items():
        if array.dtype.kind not in 'biuf':
            raise UserError(f'prepare() made {key} of type {array.dtype}; frozen holds numbers, float32 for bfloat16')
    files.write_arrays(path, arrays)


def load_prepared(path: Place) -> Prepared:
    try:
        arrays = untrusted.arrays(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} is damaged ({type(error).__name__}), and with it the run; use another --workdir'
        ) from error

    def group(name: str) -> dict[str, Any]:
        return {key.removeprefix(name): value for key, value in arrays.items() if key.startswith(name)}

    frozen, draw = group('frozen/'), group('draw/')
    needed = {'rows', 'start', 'count', 'rounds'}
    if draw and not needed <= draw.keys() <= set(Segments._fields):
        raise UserError(f'{path} is damaged, and with it the run; use another --workdir')
    return Prepared(
        traverse_util.unflatten_dict(frozen, sep='/') if frozen else (),
        Segments(**draw) if draw else None,
        {name: float(value) for name, value in group('notes/').items()},
    )
