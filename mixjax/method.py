"""The contract between a method and the trainer.

A method is a value: a `Method` holds a few pure functions, of which only `loss` is required. The
trainer never names a method, and a method never knows where its pixels came from or how many chips
there are. `docs/methods.md` explains the contract with examples.

Four lifetimes, four places:

    params    optimised; checkpointed
    state     changed by `after_step`; checkpointed (an EMA teacher, corrected labels)
    frozen    constant for a seed; made by `prepare`, kept in the work directory, read back on resume
    pretrained()  the network training started from; shared by all seeds, reloaded from its weights
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.errors import UserError, UserFunction, nearest, user_code
from mixjax.models.net import Net, Out

Array = jax.Array
Tree = Any


class Head(NamedTuple):
    """A classifier on the pooled features.

    width: its number of classes.
    rows: None for a fresh head; else, for each of its classes, the class of the pretrained
        classifier whose weights it starts from, with -1 for a fresh one.
    std: None draws fresh weights and biases by torch's default for a linear layer; a number draws
        weights from N(0, std^2) with biases 0.
    """

    width: int
    rows: np.ndarray | None = None
    std: float | None = None


class Segments(NamedTuple):
    """The law of drawing one source image for each target image.

    A target class owns one or more segments of `rows`. A draw chooses a segment of the target's
    class uniformly, then a row of that segment uniformly; with `union`, a row of all its segments
    uniformly. Classes may share segments.

    rows: (n,) rows of the source data set.
    start, count: (classes_t, rounds) where each segment begins in `rows`, and its length.
    rounds: (classes_t,) how many segments the class owns; the rest of its line is padding.
    score: (classes_t, rounds) what a segment was chosen by, shown in the pair table; None: by nothing.
    """

    rows: np.ndarray
    start: np.ndarray
    count: np.ndarray
    rounds: np.ndarray
    score: np.ndarray | None = None
    union: bool | np.ndarray = False


class Prepared(NamedTuple):
    """What `prepare` made.

    frozen: a (nested) dict of arrays. draw: the source batch's law, if any.
    notes: numbers worth telling (a similarity, a fitted scale); they go into `results.json`, and with a draw
        into the report.
    """

    frozen: Tree = ()
    draw: Segments | None = None
    notes: Mapping[str, float] = {}


class Run(NamedTuple):
    """What a method may know of the run; Python numbers, the same at every step."""

    total_steps: int
    steps_per_epoch: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Ctx(NamedTuple):
    """What a loss may read besides the parameters. Nothing in it is written.

    batch: image (B, H, W, C) float, label (B,), index (B,) row of the example in the labelled
        target set, partner (see `mix.partner`); with a `draw` also source_image, source_label.
    rng: a key of this step, for the loss; `after_step` sees another one.
    """

    model_state: Tree
    state: Tree
    frozen: Tree
    batch: dict[str, Array]
    rng: Array
    step: Array
    run: Run

    def variables(self, params: Tree) -> Tree:
        """What `net.apply` takes: these parameters with the current model state."""
        return {'params': params, **self.model_state}


class Aux(NamedTuple):
    """What a loss gives besides its value.

    model_state: of the forward pass in train mode. metrics: {name: scalar}, logged.
    carry: anything `after_step` needs from the forward pass.
    """

    model_state: Tree
    metrics: Mapping[str, Array] = {}
    carry: Tree = ()


class Part(NamedTuple):
    """The target's or the source's training examples, as `prepare` and `init` see them.

    classes: class names in label order. labels: (n,) int. sizes: (classes,) images of each class.
    batches(size, augmented=False, per_class=None): batches with image, label, index; in order and each
        example once (the last one may be short), or without end and augmented as in training. With
        `per_class`, at most so many examples of each class, always the same ones.
    class_means(per_class=None): (classes, d) mean pretrained feature of each class, over at most
        `per_class` of its images; computed once and shared by all seeds.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    batches: Callable[..., Iterator[dict[str, Array]]]
    class_means: Callable[..., np.ndarray]


class Data(NamedTuple):
    """The parts of the data. `source` is None where the config names no source data set."""

    target: Part
    source: Part | None = None


def _target_head(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
    del classes_s, prepared
    return {'target': Head(classes_t)}


def _keep(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
    del net, old, aux
    return new, ctx.state


class First(NamedTuple):
    """Training on the source images that `draw` selects, before the run itself (mid-tuning).

    method: classes -> Method; the classes are those of the selected images. The run then starts from
        the trunk that this leaves, and from its statistics.
    share: its length, as a share of the run's own steps. It has the run's optimiser and schedule.
    """

    method: Callable[[int], Method]
    share: float = 1.0


class Method(NamedTuple):
    """A training method as a value.

    loss(net, params, ctx) -> (scalar, Aux)
        Differentiated with respect to `params`, inside jit.
    after_step(net, old, new, aux, ctx) -> (params, state)
        Inside jit, after the optimiser: parameters before and after it. Default: new, ctx.state.
    prepare(net, data, rng) -> Prepared
        On the host, once a seed; the result is stored and read back. Default: nothing.
    heads(classes_t, classes_s, prepared) -> {name: Head}
        The classifiers, after `prepare`; a bare number is short for `Head(number)`. Default: one
        head, `target`.
    init(net, params, prepared, data) -> state
        The method's own state at step 0. Default: ().
    predict(out) -> (B, classes_t) logits
        What evaluation uses. Default: the head `target`.
    groups: {part: (lr factor, decay factor)}
        Parts are `stem`, `stage1` .., `head:<name>`, or `trunk` and `heads` for all of a kind; the
        more exact name wins. (0, 0) freezes. Default: 1 and 1 everywhere.
    first: a `First`, or None.
    whole_batch: whether the loss is more than a mean over the examples of a batch (a norm of all its features, a
        softmax over it), so that a batch must not be cut in parts (`config.accumulate`).
    soft_labels: whether the loss takes soft targets (B, classes_t) in the place of the labels (B,), as
        `losses.cross_entropy` does; wrappers that mix labels need it.
    batch_kinds: names of the kinds of batch that the loss alternates between; step i has the kind
        batch_kinds[i % len(batch_kinds)]. Every kind is logged, and shown as a curve of its own. Default: all steps
        are alike.
    """

    loss: Callable[[Net, Tree, Ctx], tuple[Array, Aux]]
    after_step: Callable[[Net, Tree, Tree, Aux, Ctx], tuple[Tree, Tree]] = _keep
    prepare: Callable[[Net, Data, Array], Prepared] = lambda net, data, rng: Prepared()
    heads: Callable[[int, int, Prepared], dict[str, Head]] = _target_head
    init: Callable[[Net, Tree, Prepared, Data], Tree] = lambda net, params, prepared, data: ()
    predict: Callable[[Out], Array] = lambda out: out.logits['target']
    groups: Mapping[str, tuple[float, float]] = {}
    first: First | None = None
    whole_batch: bool = False
    soft_labels: bool = False
    batch_kinds: tuple[str, ...] = ()

    @property
    def period(self) -> int:
        """The number of steps after which the kinds of batch repeat."""
        return len(self.batch_kinds) or 1


# --- methods and wrappers by name -------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What modules are loaded by name for: a noun, the package of those that ship, and the function that each has.

    example: an expression that such a function may return.
    """

    noun: str
    package: str
    function: str
    signature: str
    example: str


METHOD = Kind('method', 'mixjax.methods', 'make', 'make(classes_t, *, ...) -> Method', 'Method(loss)')
WRAPPER = Kind(
    'wrapper', 'mixjax.wrappers', 'wrap', 'wrap(method, classes_t, *, ...) -> Method', 'method._replace(loss=loss)'
)
RESERVED = ('name', 'wrappers')  # keys of a method's config that are not its settings


def names(kind: Kind = METHOD) -> list[str]:
    """The methods (or wrappers) that ship with mixjax: the modules of `mixjax.methods`."""
    return sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(kind.package).__path__))


def load(name: str, told_by: str = '', kind: Kind = METHOD) -> Callable[..., Method]:
    """The `make` function of a method: `load('xmixup')`, or `load('my_package.my_method')`; of a wrapper, `wrap`.

    The module path is the registry: a plain name is a module of `mixjax.methods` or `mixjax.wrappers`, a dotted one is
    imported as it stands.

    told_by: the file that the name was read from, if it is no person's command or config. A module of another
      package runs when it is imported, and no file may say that: it must have been imported before.
    """
    noun, known = kind.noun, names(kind)
    if not all(part.isidentifier() for part in name.split('.')):
        raise UserError(f'{name!r} is no name of a {noun} or of a module')
    path = name if '.' in name else f'{kind.package}.{name}'
    if told_by and '.' in name and path not in sys.modules:
        raise UserError(
            f'{told_by} names the {noun} {name}, which is not a part of mixjax, and a file may not say what is run; '
            f'import {name} first (the commands have --import={name} for it)'
        )
    if '.' not in name and name not in known:
        raise UserError(f'unknown {noun} {name!r}{nearest(name, known)}; the {noun}s are {", ".join(known)}')
    module = import_module(path, f'{noun} {name!r}')
    if not callable(getattr(module, kind.function, None)):
        raise UserError(f'{noun} {name!r}: the module has no function {kind.signature}')
    return getattr(module, kind.function)


def import_module(path: str, what: str) -> Any:
    """A module by its dotted name; what is wrong with it is one sentence that begins with `what`.

    Only for names that a person gave (a command line, a config of theirs): to import a module is to run it.
    """
    if not all(part.isidentifier() for part in path.split('.')):
        raise UserError(f'{what}: {path!r} is no name of a module, such as my_package.my_module')
    try:
        with user_code(f'{what}: the import'):
            return importlib.import_module(path)
    except UserError as error:
        lost = error.__cause__
        if isinstance(lost, ModuleNotFoundError) and lost.name and f'{path}.'.startswith(f'{lost.name}.'):
            raise UserError(f'{what}: there is no module {lost.name!r} on the Python path') from lost
        raise


def knobs(make: Callable[..., Method], kind: Kind = METHOD) -> dict[str, Any]:
    """The hyper-parameters of a method or wrapper and their defaults: its function's keyword-only arguments."""
    place = f'{make.__module__}.{kind.function}'
    with user_code(place, make):
        parameters = inspect.signature(make).parameters.values()
    keywords = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    missing = [p.name for p in keywords if p.default is inspect.Parameter.empty]
    if missing:
        raise UserError(f'{place}: give {", ".join(missing)} a default value')
    for p in keywords:
        if p.name in RESERVED:
            raise UserError(f'{place}: {p.name} means something else in a config; call this argument otherwise')
        if type(p.default) not in (bool, int, float, str, tuple):
            raise UserError(f'{place}: the default of {p.name} must be a number, text, bool or tuple')
    return {p.name: p.default for p in keywords}


class Layer(NamedTuple):
    """A method, or a wrapper around it. prefix: in front of its settings in a config; defaults: {setting: default}."""

    kind: Kind
    function: Callable[..., Method]
    prefix: str
    defaults: dict[str, Any]


def layers(config: Mapping[str, Any], told_by: str = '') -> list[Layer]:
    """The method that a config names, then its wrappers from the inside out.

    Args:
      config: {'name': .., 'wrappers': (..), <settings>}. A wrapper's settings have its name and `_` in front, of
        a module path the last part. told_by: see `load`.
    """
    wrappers = config.get('wrappers', ())
    if not isinstance(wrappers, (tuple, list)) or not all(isinstance(name, str) for name in wrappers):
        raise UserError(f"wrappers must be names of wrappers, as in ('mixup',), not {wrappers!r}")
    make = load(config['name'], told_by)
    found = [Layer(METHOD, make, '', knobs(make))]
    for name in wrappers:
        wrap, prefix = load(name, told_by, WRAPPER), f'{name.rpartition(".")[2]}_'
        if prefix in [layer.prefix for layer in found]:
            raise UserError(f'wrappers has {prefix[:-1]!r} twice, and its settings have only one place')
        found.append(Layer(WRAPPER, wrap, prefix, knobs(wrap, WRAPPER)))
    keys = [f'{layer.prefix}{key}' for layer in found for key in layer.defaults]
    twice = next((key for key in keys if keys.count(key) > 1), '')
    if twice:
        raise UserError(f'{title(config)}: two settings would be called {twice!r}; rename the wrapper or its argument')
    return found


def defaults(config: Mapping[str, Any], told_by: str = '') -> dict[str, Any]:
    """{setting: default} of the method that a config names and of its wrappers."""
    found = layers(config, told_by)
    return {f'{layer.prefix}{key}': value for layer in found for key, value in layer.defaults.items()}


def build(config: Mapping[str, Any], classes_t: int, told_by: str = '') -> Method:
    """The `Method` that a config describes, with its wrappers around it; settings it does not say have their defaults.

    Args:
      config: see `layers`.
    """
    found = layers(config, told_by)
    given = {key: value for key, value in config.items() if key not in RESERVED}
    known = [f'{layer.prefix}{key}' for layer in found for key in layer.defaults]
    for key in given:
        if key not in known:
            raise UserError(f'{title(config)} has no setting {key!r}{nearest(key, known)}')
    method: Any = None
    for depth, layer in enumerate(found):
        around = () if method is None else (method,)
        settings = {key: given.get(f'{layer.prefix}{key}', value) for key, value in layer.defaults.items()}
        name = title({**config, 'wrappers': tuple(config.get('wrappers', ()))[:depth]})
        try:
            with user_code(f'method {name}: {layer.kind.function}', layer.function):
                made = layer.function(*around, classes_t, **settings)
        except UserError as error:
            if not layer.prefix or error.__cause__ is not None:  # it has named the function already
                raise
            raise UserError(f'{layer.prefix[:-1]}: {error}') from error
        method = checked(made, name, layer.kind)
    return method


def checked(made: Any, name: str, kind: Kind = METHOD) -> Method:
    """A `Method` whose fields can be what they must be, with functions that say where an error of theirs comes from."""
    if not isinstance(made, Method):
        raise UserError(
            f'method {name!r}: {kind.function}() must return a mixjax.method.Method, not {type(made).__name__}; end it '
            f'with return {kind.example}'
        )
    functions = {key: made._asdict()[key] for key in FUNCTIONS}
    for key, function in functions.items():
        if not callable(function):
            raise UserError(f'method {name}: Method({key}=..) must be a function, not {type(function).__name__}')
    first = made.first
    if first is not None:
        if not isinstance(first, First) or not callable(first.method) or not 0 < first.share < math.inf:
            raise UserError(f'method {name}: Method(first=..) must be First(method, share), share a number above 0')
        first = first._replace(method=_FirstMethod(first.method, name))
    _check_groups(made.groups, name)
    guarded = {key: UserFunction(function, f'method {name}: {key}') for key, function in functions.items()}
    return made._replace(**guarded, first=first)


FUNCTIONS = ('loss', 'after_step', 'prepare', 'heads', 'init', 'predict')


class _FirstMethod(NamedTuple):
    """`First.method` with the checks of `checked`."""

    make: Callable[[int], Method]
    name: str

    def __call__(self, classes: int) -> Method:
        with user_code(f'method {self.name}: first.method', self.make):
            made = self.make(classes)
        return checked(made, f'{self.name} (first stage)')


def _check_groups(groups: Any, name: str) -> None:
    if not isinstance(groups, Mapping):
        raise UserError(
            f"method {name}: Method(groups=..) must be a dict such as {{'trunk': (0.1, 1.0)}}, not {groups!r}"
        )
    for part, pair in groups.items():
        numbers = (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(isinstance(x, int | float | np.number) for x in pair)
        )
        if not numbers or not all(0 <= x < math.inf for x in pair):
            raise UserError(
                f'method {name}: groups[{part!r}] must be (learning rate factor, weight decay factor), two numbers of '
                f'at least 0, not {pair!r}'
            )


def title(config: Mapping[str, Any]) -> str:
    """A method with its wrappers in words: `l2sp + mixup`."""
    return ' + '.join([config['name'], *config.get('wrappers', ())])
