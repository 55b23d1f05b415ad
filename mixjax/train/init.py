"""The state of a seed at step 0: parameters from the pretrained network, fresh heads, the method's state."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from mixjax.config.validate import TINY
from mixjax.errors import UserError, user_code
from mixjax.method import Aux, Ctx, Data, Head, Method, Prepared
from mixjax.models.net import NO_CLASSIFIER, Net
from mixjax.train import contract
from mixjax.train.accumulate import check_carry
from mixjax.train.program import Program
from mixjax.train.shared import float_type
from mixjax.train.step import TrainState, keys

Array = jax.Array
Tree = Any


def heads(method: Method, classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
    """Return the method's heads; a bare number is short for `Head(number)`.

    Args:
      method: the method.
      classes_t, classes_s: numbers of target and source classes.
      prepared: the result of `prepare`.
    """
    return contract.heads(method, method.heads(classes_t, classes_s, prepared), classes_s)


def initial_params(
    init: Callable[[Array], Tree], wanted: Mapping[str, Head], key: Array, start: Tree | None, dtype: Any,
    trunk: Tree | None = None,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Initialise (params, model_state) from the fresh variables, the pretrained network and the heads' rows.

    Args:
      init: the compiled program of `initialiser`.
      wanted: {name: head}.
      key: key of the fresh parameters.
      start: variables of the pretrained network; None from scratch.
      dtype: type of the parameters and statistics.
      trunk: variables whose backbone and statistics replace those of the pretrained network.
    """
    made = jax.tree.map(lambda x: x.astype(dtype), init(key))
    heads = {
        name: initial_head(head, wanted[name], jax.random.fold_in(key, zlib.crc32(name.encode())), start)
        for name, head in made['params'].get('heads', {}).items()
    }
    origin = trunk or start or made
    params = {**origin['params'], 'heads': heads}
    return params, {name: tree for name, tree in origin.items() if name != 'params'}


def initialiser(net: Net, wanted: Mapping[str, Head], image: Array, pretrained: bool) -> Callable[[Array], Tree]:
    """Compile net.init; with a pretrained network only the heads are new, so only they are computed.

    Args:
      net: the network.
      wanted: {name: head}.
      image: (1, H, W, C) zeros of an image's shape.
      pretrained: whether the trunk comes from the pretrained network.
    """
    widths = {name: head.width for name, head in wanted.items()}

    def init(key: Array) -> Tree:
        variables = net.init(key, image, widths)
        return {'params': {'heads': variables['params'].get('heads', {})}} if pretrained else variables

    return jax.jit(init)


def try_step(program: Program, prepared: Prepared, data: Data) -> None:
    """Refuse a method whose first step, training or prediction would fail, before anything is trained or written.

    Shapes only, so nothing is compiled; but an `init` that works on the host (numpy, passes over the data) is
    called one more time.
    """
    method, config, image = program.method, program.config, program.shared.image
    (net, _), start = program.shared.view, program.shared.start_here
    wanted = wanted_heads(net, method, prepared, data, start)
    key = keys(jax.random.key(config.seed)).init
    init, dtype = initialiser(net, wanted, image, start is not None), float_type(config)

    def begin_params(key: Array) -> tuple[Tree, Tree]:
        params, model_state = initial_params(init, wanted, key, start, dtype)
        return method_params(net, method, params, key), model_state

    def begin(key: Array) -> tuple[Tree, Tree, Tree]:
        params, model_state = begin_params(key)
        state = method.init(net, params, prepared, data._replace(model_state=model_state))
        contract.state(method, state)
        return params, model_state, state

    params, model_state = jax.eval_shape(begin_params, key)
    _require_something_learns(program, method, params, config)
    try:
        state = jax.eval_shape(begin, key)[2]
    except UserError as error:
        if error.__cause__ is None:
            raise
        state = initial_variables(net, start, program, key, prepared, data)[2]
    batch = config.batch_size // config.accumulate
    groups = config.mix.groups // config.accumulate or 1

    def step(
        params: Tree, model_state: Tree, state: Tree, key: Array, images: Array, label: Array, index: Array, phase: int
    ) -> Any:  # fmt: skip
        example = {'image': images, 'label': label, 'index': index, 'partner': index.reshape(groups, -1)}
        if prepared.draw is not None and method.first is None:
            example |= {'source_image': images, 'source_label': index}
        more = {'image': images}
        if method.unlabelled:
            more['unlabelled'] = jnp.concatenate([images] * method.unlabelled)
            example['unlabelled_index'] = jnp.concatenate([index] * method.unlabelled)
        example |= {name: more[view.of] for name, view in method.views.items()}
        frozen = jax.tree.map(jnp.asarray, prepared.frozen)
        run = program.run._replace(phase=phase, factors=Partial(program.factors(phase)))
        ctx = Ctx(model_state, state, frozen, example, key, jnp.zeros((), jnp.int32), run)

        def loss(params: Tree) -> tuple[Array, Aux]:
            returned = method.loss(net, params, ctx)
            contract.loss(method, returned, model_state)
            check_carry(returned[1], config.accumulate)
            return returned

        with user_code(contract.place(method.loss, 'loss'), method.loss):
            (_, aux), _ = jax.value_and_grad(loss, has_aux=True)(params)
        variables = method.evaluated(program.net, {'params': params, **model_state}, state)
        contract.evaluated(method, variables, params, model_state)
        out, _ = net.apply(variables, images, train=False)
        contract.predicted_head(method, out.logits)
        contract.predict(method, method.predict(out), batch, len(data.target.classes))
        if method.measures is not None:
            contract.measures(method, method.measures(out, label), batch)
        contract.after_step(method, method.after_step(net, params, params, aux, ctx), params, state)

    images = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)
    index = jax.ShapeDtypeStruct((batch,), jnp.int32)
    rows = jax.ShapeDtypeStruct((batch, len(data.target.classes)), jnp.float32)
    label = rows if program.task.rows else index
    for phase in range(len(program.starts)):
        given = params, model_state, state, jax.random.key(0), images, label, index
        jax.eval_shape(partial(step, phase=phase), *given)


def _require_something_learns(program: Program, method: Method, params: Tree, config: Any) -> None:
    """Refuse a run in which the optimiser moves no parameter, unless the method moves them itself."""
    if not method.trains:
        return
    tables = [program.factors(phase)(params) for phase in range(len(program.starts))]
    rates = [rate for table in tables for rate in jax.tree.leaves(jax.tree.map(lambda _, pair: pair[0], params, table))]
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


def wanted_heads(net: Net, method: Method, prepared: Prepared, data: Data, start: Tree | None) -> dict[str, Head]:
    """Return the method's heads; refuse ones that start from a pretrained classifier if there is none."""
    wanted = heads(method, len(data.target.classes), 0 if start is None else pretrained_classes(start), prepared)
    if start is None and any(head.rows is not None and (np.asarray(head.rows) >= 0).any() for head in wanted.values()):
        net.pretrained()  # raises: there is none
    if start is not None and 'target' in start['params']['heads']:
        if 'target' not in wanted:
            raise UserError(
                "config.model.head=keep needs a method with a head 'target'; this one has "
                + ' and '.join(repr(name) for name in wanted)
            )
        width_t = len(start['params']['heads']['target']['bias'])
        # A first stage has other classes, and a method may choose the rows itself.
        if wanted['target'].rows is None and wanted['target'].width == width_t:
            wanted['target'] = wanted['target']._replace(rows=np.arange(width_t))
    return wanted


def initial_head(drawn: Tree, head: Head, key: Array, start: Tree | None) -> Tree:
    """Initialise a head: its own weights, or drawn by torch's default or its `std`, with the pretrained rows it names.

    Args:
      drawn: kernel and bias drawn by torch's default.
      head: description of the head.
      key: key of its draw.
      start: variables of the pretrained network; None from scratch.
    """
    if head.kernel is not None and head.bias is not None:
        given = {'kernel': head.kernel, 'bias': head.bias}
        for name, value in given.items():
            if np.shape(value) != drawn[name].shape:
                raise UserError(
                    f'the {name} of a head must be of shape {drawn[name].shape} for this network, not {np.shape(value)}'
                )
        return {name: jnp.asarray(value, drawn[name].dtype) for name, value in given.items()}
    if head.std is not None:
        kernel = head.std * jax.random.normal(key, drawn['kernel'].shape, drawn['kernel'].dtype)
        drawn = {'kernel': kernel, 'bias': jnp.zeros_like(drawn['bias'])}
    return drawn if head.rows is None or start is None else copy_rows(drawn, head, start)


def copy_rows(fresh: Tree, head: Head, start: Tree) -> Tree:
    """Return a fresh head with the classes that `head.rows` names copied from the pretrained classifier."""
    classifier = start['params'].get('heads', {}).get('source')
    rows = np.asarray(head.rows)
    taken = np.flatnonzero(rows >= 0)
    if len(rows) != head.width:
        raise UserError(f'a head of width {head.width} names {len(rows)} rows; they must be as many')
    if len(taken) == 0:
        return fresh
    if classifier is None or rows.max() >= classifier['bias'].shape[0]:
        raise UserError(f'the method starts from the pretrained classifier, {NO_CLASSIFIER}')
    kernel = fresh['kernel'].at[:, taken].set(classifier['kernel'][:, rows[taken]])
    return {'kernel': kernel, 'bias': fresh['bias'].at[taken].set(classifier['bias'][rows[taken]])}


def initial_state(
    net: Net, start: Tree | None, program: Program, seed_key: Array, prepared: Prepared, data: Data,
    trunk: Tree | None = None,
) -> TrainState:  # fmt: skip
    """Make the state at step 0.

    Args:
      net: the network as the method's `init` sees it.
      start: variables of the pretrained network; None from scratch.
      program: the run's programs.
      seed_key: key of the seed.
      prepared: the result of `prepare`.
      data: the seed's data.
      trunk: see `initial_params`.
    """
    key = keys(seed_key).init
    params, model_state, state = initial_variables(net, start, program, key, prepared, data, trunk)
    ts = TrainState(jnp.zeros((), jnp.int32), seed_key, params, model_state, program.tx.init(params), state)
    # The program reuses the memory of its state: nothing in it may be shared, least of all with `start`.
    return jax.tree.map(jnp.array, ts)


def initial_variables(
    net: Net, start: Tree | None, program: Program, key: Array, prepared: Prepared, data: Data,
    trunk: Tree | None = None,
) -> tuple[Tree, Tree, Tree]:  # fmt: skip
    """Make (params, model_state, the method's state) at step 0; the arguments are those of `initial_state`."""
    method, shared = program.method, program.shared
    wanted = wanted_heads(net, method, prepared, data, start)
    # Compiled once for all seeds and methods with heads of these widths.
    widths = tuple((name, head.width) for name, head in wanted.items())
    if widths not in shared.initialisers:
        shared.initialisers[widths] = initialiser(net, wanted, shared.image, start is not None)
    init = shared.initialisers[widths]
    params, model_state = initial_params(init, wanted, key, start, float_type(program.config), trunk)
    params = method_params(net, method, params, key)
    state = method.init(net, params, prepared, data._replace(model_state=model_state))
    contract.state(method, state)
    return params, model_state, state


def method_params(net: Net, method: Method, params: Tree, key: Array) -> Tree:
    """Return the parameters that the method trains, made of those of the network at step 0."""
    if contract.is_default(method, 'parameters'):
        return params
    made = method.parameters(net, params, jax.random.fold_in(key, zlib.crc32(b'parameters')))
    contract.parameters(method, made, params)
    return made


def pretrained_classes(start: Tree) -> int:
    """Return the number of classes of the pretrained classifier; 0 without one."""
    classifier = start['params'].get('heads', {}).get('source')
    return 0 if classifier is None else int(classifier['bias'].shape[0])
