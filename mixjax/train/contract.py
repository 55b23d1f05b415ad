"""Checks of the return values of a method's functions (`docs/contract.md`), before anything is trained or written.

Shapes and types only: the checks run while a step is traced. Each error names the method and the function, and the
value to return instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import tasks
from mixjax.errors import UserError, UserFunction
from mixjax.method import Aux, Head, Method, Prepared, Segments
from mixjax.models.net import Out

Array = jax.Array
Tree = Any
NETWORK = ('backbone', 'heads')  # the sub-trees of a network's parameters
RESERVED = ('seed', 'step', 'kind', 'batch_kind', 'loss', 'lr', 'grad_norm', 'skipped')  # names in a line of metrics
# Names of what an evaluation finds by itself; a measure of a method would hide it.
EVALUATED = tuple(name for task in tasks.TASKS.values() for name in task.named)
SHOWN = 3  # maximum number of differences of two trees in a message


# --- inside the step --------------------------------------------------------------------------------------------------


def loss(method: Method, returned: Any, model_state: Tree) -> None:
    """Check the return value of `loss`.

    Args:
      method: the method.
      returned: the value that `loss` returned.
      model_state: the state before the step, whose shapes it must keep.
    """
    where = place(method.loss, 'loss')
    wanted = 'return (loss, Aux(model_state, metrics))'
    if isinstance(returned, Aux) or not isinstance(returned, tuple) or len(returned) != 2:
        raise UserError(f'{where} returned {kind(returned)}; {wanted}')
    value, aux = returned
    if not isinstance(aux, Aux):
        raise UserError(f'{where} returned (loss, {kind(aux)}); {wanted}')
    if not is_number(value) or spec(value).shape or not jnp.issubdtype(spec(value).dtype, jnp.floating):
        raise UserError(
            f'{where} returned a loss that is {kind(value)}; it must be one float, such as the .mean() over the batch'
        )
    found = difference(model_state, aux.model_state)
    if found:
        raise UserError(
            f'{where} returned another model_state than it was given ({found}); put into Aux what net.apply returned '
            'besides `out`, or ctx.model_state'
        )
    metrics(aux.metrics, where)
    wrong = not_arrays(aux.carry)
    if wrong:
        raise UserError(f'{where} returned Aux(carry=..) with {wrong}; it may hold arrays and numbers only')


def metrics(found: Any, where: str = 'the loss') -> None:
    """Refuse metrics that the log cannot hold."""
    if not isinstance(found, Mapping):
        raise UserError(f'{where} returned Aux(metrics=..) that is {kind(found)}; it must be a dict of scalars')
    for key, value in found.items():
        if not isinstance(key, str) or key in RESERVED or not is_number(value) or spec(value).shape:
            raise UserError(
                f'{where}: the metric {key!r} must be a scalar, and not be called {", ".join(RESERVED)}; it is '
                f'{kind(value)}'
            )
        if (
            not jnp.issubdtype(spec(value).dtype, jnp.number)
            and spec(value).dtype != jnp.bool_
            or jnp.issubdtype(spec(value).dtype, jnp.complexfloating)
        ):
            raise UserError(f'{where}: the metric {key!r} must be a real number; it is {kind(value)}')


def after_step(method: Method, returned: Any, params: Tree, state: Tree) -> None:
    """Check the return value of `after_step`.

    Args:
      method: the method.
      returned: the value that `after_step` returned.
      params, state: those before the step, whose shapes both must keep.
    """
    where = place(method.after_step, 'after_step')
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise UserError(f'{where} returned {kind(returned)}; return (params, state)')
    for what, before, after in zip(('params', 'state'), (params, state), returned, strict=True):
        found = difference(before, after)
        if found:
            raise UserError(
                f'{where} returned {what} of another structure, shape or type than before the step ({found}); '
                f'return (params, state), each like the one it replaces'
            )


def evaluated(method: Method, returned: Any, params: Tree, model_state: Tree) -> None:
    """Check the return value of `evaluated`: the variables of the network, without what the method trains beside it.

    Args:
      method: the method.
      returned: the value that `evaluated` returned.
      params, model_state: of the training state.
    """
    where, wanted = place(method.evaluated, 'evaluated'), "return {'params': {'backbone': .., 'heads': ..}, ..}"
    if not isinstance(returned, Mapping) or not isinstance(returned.get('params'), Mapping):
        raise UserError(f'{where} returned {kind(returned)}; {wanted}')
    before = {'params': {name: params[name] for name in NETWORK}, **model_state}
    found = difference(before, returned)
    if found:
        raise UserError(
            f'{where} returned other variables than those of the network ({found}); {wanted}, each array like the one '
            'it replaces'
        )


def parameters(method: Method, returned: Any, params: Tree) -> None:
    """Check the return value of `parameters`: the network's own, perhaps with further sub-trees."""
    where = place(method.parameters, 'parameters')
    if not isinstance(returned, Mapping) or not all(isinstance(key, str) for key in returned):
        raise UserError(f'{where} returned {kind(returned)}; return a dict such as {{**params, name: ..}}')
    found = difference(params, {name: returned[name] for name in params if name in returned})
    if found:
        raise UserError(
            f"{where} returned another network ({found}); keep the sub-trees {' and '.join(params)} as they are, and "
            'add others beside them'
        )
    state(method, {name: tree for name, tree in returned.items() if name not in params}, 'parameters')


def predicted_head(method: Method, heads: Mapping[str, Any]) -> None:
    """Refuse a method that leaves `predict` at its default and has no head `target`."""
    plain = method.predict.function if isinstance(method.predict, UserFunction) else method.predict
    if plain is Method._field_defaults['predict'] and 'target' not in heads:
        raise UserError(
            f"{place(method.predict, 'predict')}: the method has no head 'target' (its heads are "
            f"{', '.join(heads) or 'none'}); give it a predict(out) that returns the logits of the target's classes"
        )


def predict(method: Method, returned: Any, batch: int, classes_t: int) -> None:
    """Check the return value of `predict` for a batch.

    Args:
      method: the method.
      returned: the value that `predict` returned.
      batch: number of examples.
      classes_t: number of target classes.
    """
    if is_number(returned):
        found = spec(returned)
        if found.shape == (batch, classes_t) and jnp.issubdtype(found.dtype, jnp.floating):
            return
    raise UserError(
        f'{place(method.predict, "predict")} returned {kind(returned)}; it must be the logits of the '
        f'{classes_t} target classes, float and of shape (B, {classes_t}), here (B = {batch}) ({batch}, {classes_t})'
    )


def measures(method: Method, returned: Any, batch: int) -> None:
    """Check the return value of `measures` for a batch.

    Args:
      method: the method.
      returned: the value that `measures` returned.
      batch: number of examples.
    """
    where = place(method.measures, 'measures')
    if not isinstance(returned, Mapping):
        raise UserError(f'{where} returned {kind(returned)}; it must be a dict of numbers of each example, (B,)')
    taken = (*RESERVED, *EVALUATED)
    for key, value in returned.items():
        named = isinstance(key, str) and key.isprintable() and 0 < len(key) < 100
        if not named or key.partition(' ')[0] in taken:
            raise UserError(
                f'{where}: the name {key!r} must be a short printable text, and not one of {", ".join(taken)}'
            )
        real = is_number(value) and (
            jnp.issubdtype(spec(value).dtype, jnp.floating)
            or jnp.issubdtype(spec(value).dtype, jnp.integer)
            or spec(value).dtype == jnp.bool_
        )
        if not real or spec(value).shape != (batch,):
            raise UserError(
                f'{where}: {key!r} is {kind(value)}; it must be a real number of each example, of shape (B,), here '
                f'({batch},)'
            )


def is_default(method: Method, name: str) -> bool:
    """Return whether a method leaves one of its functions at the default."""
    function = method._asdict()[name]
    function = function.function if isinstance(function, UserFunction) else function
    return function is Method._field_defaults[name]


# --- before the first step --------------------------------------------------------------------------------------------


def heads(method: Method, returned: Any, classes_s: int) -> dict[str, Head]:
    """Check the return value of `heads` and return the heads; a bare number is short for `Head(number)`."""
    where = place(method.heads, 'heads')
    wanted = "return a dict such as {'target': Head(classes_t)}"
    if not isinstance(returned, Mapping) or not all(isinstance(key, str) and key for key in returned):
        raise UserError(f'{where} returned {kind(returned)}; {wanted}')
    out = {}
    for key, head in returned.items():
        head = Head(head) if is_whole(head) else head
        if isinstance(head, Head) and head.rows is not None and not classes_s and head.width == 0:
            out[key] = head  # of a missing pretrained classifier; `init` reports it
            continue
        if not isinstance(head, Head) or not is_whole(head.width) or head.width < 1:
            raise UserError(f'{where}: {key!r} must be a Head of at least one class, not {head!r}; {wanted}')
        if head.std is not None and not (isinstance(head.std, int | float | np.number) and 0 <= head.std < math.inf):
            raise UserError(f'{where}: the std of {key!r} must be None or a number of at least 0, not {head.std!r}')
        own: dict[str, Any] = {'kernel': head.kernel, 'bias': head.bias}
        fits = all(is_number(value) and np.shape(value)[-1:] == (head.width,) for value in own.values())
        if not fits and any(value is not None for value in own.values()):
            raise UserError(
                f'{where}: {key!r} of width {head.width} must have both a kernel of shape (d, {head.width}) and a '
                f'bias of shape ({head.width},), not {kind(head.kernel)} and {kind(head.bias)}'
            )
        if head.rows is not None:
            rows = np.asarray(head.rows)
            if rows.ndim != 1 or rows.dtype.kind not in 'iu' or len(rows) != head.width:
                raise UserError(
                    f'{where}: {key!r} of width {head.width} names {rows.size} rows ({kind(rows)}); they must be as '
                    'many whole numbers as it has classes, -1 for a fresh one'
                )
            if classes_s and (rows.min() < -1 or rows.max() >= classes_s):
                raise UserError(
                    f'{where}: the rows of {key!r} go from {rows.min()} to {rows.max()}; the pretrained classifier has '
                    f'the rows 0 to {classes_s - 1}, and -1 is a fresh one'
                )
        out[key] = head._replace(width=int(head.width))
    return out


def state(method: Method, returned: Any, name: str = 'init') -> None:
    """Check that a value that `init`, or another function, returned holds arrays only."""
    wrong = not_arrays(returned)
    if wrong:
        raise UserError(
            f'{place(method._asdict()[name], name)} returned a state with {wrong}; a state may hold arrays and numbers '
            'only, in dicts, lists or tuples'
        )


def prepared(method: Method, made: Any, classes_t: int, rows_s: int | None) -> Prepared:
    """Check the return value of `prepare`.

    Args:
      method: the method.
      made: the value that `prepare` returned.
      classes_t: number of target classes.
      rows_s: number of examples of the source data set; None without one.
    """
    where = place(method.prepare, 'prepare')
    if not isinstance(made, Prepared):
        raise UserError(f'{where} returned {kind(made)}; return Prepared(frozen, draw, notes)')
    if not (isinstance(made.frozen, Mapping) or isinstance(made.frozen, tuple) and not made.frozen):
        raise UserError(
            f'{where} returned Prepared(frozen=..) that is {kind(made.frozen)}; it must be a dict of arrays'
        )
    if isinstance(made.frozen, Mapping):
        _frozen(where, made.frozen, 'frozen')
    if not isinstance(made.notes, Mapping):
        raise UserError(f'{where} returned Prepared(notes=..) that is {kind(made.notes)}; it must be a dict of numbers')
    for key, value in made.notes.items():
        if (
            not isinstance(key, str)
            or not is_number(value)
            or np.ndim(value)
            or np.asarray(value).dtype.kind not in 'biuf'
        ):
            raise UserError(f'{where}: the note {key!r} must be one number, not {kind(value)}')
    if made.draw is not None:
        _draw(where, made.draw, classes_t, rows_s)
    return made


def _frozen(where: str, tree: Mapping[Any, Any], place: str) -> None:
    for key, value in tree.items():
        if not isinstance(key, str) or '/' in key:
            raise UserError(f'{where}: the keys of {place} must be text without /, not {key!r}')
        if isinstance(value, Mapping):
            _frozen(where, value, f'{place}[{key!r}]')
        elif not is_number(value) or np.asarray(value).dtype.kind not in 'biuf':
            raise UserError(
                f'{where}: {place}[{key!r}] is {kind(value)}; frozen holds arrays of numbers, float32 for bfloat16, in '
                'dicts'
            )


def _draw(where: str, draw: Any, classes_t: int, rows_s: int | None) -> None:
    """Check the tables of a draw: every target class must draw existing rows."""
    if not isinstance(draw, Segments):
        raise UserError(f'{where} returned Prepared(draw=..) that is {kind(draw)}; it must be a Segments')
    if rows_s is None:
        raise UserError('the method draws source images: set config.source.name')
    tables = {key: np.asarray(value) for key, value in draw._asdict().items() if value is not None}
    for key in ('rows', 'start', 'count', 'rounds'):
        if key not in tables or tables[key].dtype.kind not in 'iu':
            raise UserError(f'{where}: draw.{key} must be an array of whole numbers, not {kind(draw._asdict()[key])}')
    rows, start, count, rounds = (tables[key] for key in ('rows', 'start', 'count', 'rounds'))
    if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= rows_s:
        raise UserError(
            f'{where}: draw.rows must be rows of the source data set, one axis of numbers from 0 to {rows_s - 1}'
            + (f', and go from {rows.min()} to {rows.max()}' if rows.size else ', and there are none')
        )
    if start.ndim != 2 or len(start) != classes_t or count.shape != start.shape:
        raise UserError(
            f'{where}: draw.start and draw.count must both be of shape (target classes, rounds), ({classes_t}, ..), '
            f'not {start.shape} and {count.shape}'
        )
    if rounds.shape != (classes_t,) or rounds.min() < 1 or rounds.max() > start.shape[1]:
        raise UserError(
            f'{where}: draw.rounds must say for each of the {classes_t} target classes how many of its segments are in '
            f'use, 1 to {start.shape[1]}, not {kind(rounds)}'
            + (f' from {rounds.min()} to {rounds.max()}' if rounds.size else '')
        )
    used = np.arange(start.shape[1]) < rounds[:, None]
    if (start < 0)[used].any() or (count < 1)[used].any() or (start + count > len(rows))[used].any():
        t, k = np.argwhere(used & ((start < 0) | (count < 1) | (start + count > len(rows))))[0]
        raise UserError(
            f'{where}: segment {k} of target class {t} (start {start[t, k]}, count {count[t, k]}) must have at least '
            f'one row and be within the {len(rows)} of draw.rows'
        )
    if 'score' in tables and (tables['score'].shape != start.shape or tables['score'].dtype.kind not in 'biuf'):
        raise UserError(f'{where}: draw.score must be None or numbers of shape {start.shape}, not {kind(draw.score)}')
    if tables['union'].shape or tables['union'].dtype.kind != 'b':
        raise UserError(f'{where}: draw.union must be true or false, not {kind(draw.union)}')


# --- a user's network -------------------------------------------------------------------------------------------------


def network(name: str, out: Any, batch: int) -> None:
    """Check the outputs of a network's forward pass (`docs/networks.md`)."""
    if (
        not isinstance(out, Out)
        or not is_number(out.features)
        or np.ndim(out.features) != 2
        or len(out.features) != batch
    ):
        features = out.features if isinstance(out, Out) else out
        raise UserError(
            f'network {name}: the features must be of shape (B, d), one line for each of the {batch} images, not '
            f'{kind(features)}; return (features, maps)'
        )
    if not isinstance(out.maps, Mapping) or not is_number(out.maps.get('last')) or np.ndim(out.maps['last']) != 4:
        found = ', '.join(out.maps) if isinstance(out.maps, Mapping) else kind(out.maps)
        raise UserError(
            f"network {name}: the maps must be a dict with the map that is pooled, (B, h, w, C), as 'last'; it has "
            f'{found or "none"}'
        )


def place(function: Any, name: str) -> str:
    """Return the beginning of a message about a function of a method."""
    return function.what if isinstance(function, UserFunction) else name


# --- descriptions of values -------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Return whether a value is an array of numbers or keys, or a Python number."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in 'biufcV' and value.dtype.names is None
    return isinstance(value, jax.Array | jax.ShapeDtypeStruct | bool | int | float | complex)


def is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def spec(value: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and type of an array or number, as a compiled program has them."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    return jax.eval_shape(lambda: jnp.asarray(value))


def kind(value: Any) -> str:
    """Return a description of a value for a message: `float32 of shape (8, 10)`, `a tuple of 3`, `None`."""
    if is_number(value):
        found = spec(value)
        return f'{found.dtype} of shape {found.shape}'
    if value is None:
        return 'None'
    if isinstance(value, np.ndarray):
        return f'an array of type {value.dtype}'
    if type(value) in (tuple, list, dict):
        return f'a {type(value).__name__} of {len(value)}'
    if isinstance(value, str):
        return f'the text {value[:40]!r}'
    article = 'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'
    return f'{article} {type(value).__name__}'


def not_arrays(tree: Tree) -> str:
    """Return a description of the first leaf that is neither an array nor a number; '' if there is none."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_number(leaf):
            return f'{kind(leaf)} at {jax.tree_util.keystr(path) or "its top"}'
    return ''


def difference(before: Tree, after: Tree) -> str:
    """Return a description of the differences of two trees in structure, shapes and types; '' if they agree."""
    wrong = not_arrays(after)
    if wrong:
        return wrong
    old, new = (
        {jax.tree_util.keystr(path): spec(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (before, after)
    )
    said = [f'{key} is missing' for key in old if key not in new]
    said += [f'{key} is new' for key in new if key not in old]
    said += [
        f'{key or "it"} was {kind(old[key])} and is {kind(new[key])}'
        for key in old
        if key in new and (old[key].shape, old[key].dtype) != (new[key].shape, new[key].dtype)
    ]
    if not said and jax.tree.structure(before) != jax.tree.structure(after):
        said = ['its containers (dicts, lists, tuples) are of another kind']
    more = f' and {len(said) - SHOWN} more' if len(said) > SHOWN else ''
    return ', '.join(said[:SHOWN]) + more
