"""Methods and wrappers by name: the module path is the registry.

`load('xmixup')` is the function `make` of the module `mixjax.methods.xmixup`, `load('my_package.my_method')` that of
your module; its keyword-only arguments are the settings that a config may set. A module that has `wrap` and no `make`
is, as a method, that wrapper around plain fine-tuning. `build` makes the `Method` that a config describes, with its
wrappers around it, and checks the result.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.feed import specification
from mixjax.errors import UserError, UserFunction, nearest, user_code
from mixjax.method import TASKS, First, Method, Phase, View


class Kind(NamedTuple):
    """A kind of module that is loaded by name: methods or wrappers.

    Attributes:
      noun: the word for it in messages.
      package: the package of the modules that ship with mixjax.
      function: name of the function that each module has.
      signature: signature of that function, for messages.
      example: an expression that the function may return, for messages.
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
WRAPPED = 'finetune'  # the method that the name of a wrapper alone stands for, wrapped
RESERVED = ('name', 'wrappers')  # keys of a method's config that are not settings of the method


GIVEN = 'given:'  # begins the name of a method that was given as a function
_given: ContextVar[Mapping[str, Callable[..., Method]]] = ContextVar('given methods')


@contextlib.contextmanager
def with_functions(makes: Mapping[str, Callable[..., Method]]) -> Iterator[None]:
    """Let configs name these `make` functions, {name: function}, inside of the block."""
    token = _given.set({**_given.get({}), **makes})
    try:
        yield
    finally:
        _given.reset(token)


def function_name(make: Callable[..., Method]) -> str:
    """Return the name by which a config refers to a method that was given as a function.

    A module's `make` has the module's name, as ever, so that all commands find it; another function has its own.
    """
    function = make.func if isinstance(make, functools.partial) else make
    if not callable(make) or isinstance(make, type) or not isinstance(function, FunctionType):
        raise UserError(f'a method is a name or a function {METHOD.signature}, not {str(make)[:60]}')
    module = sys.modules.get(function.__module__)
    if function is make and getattr(module, METHOD.function, None) is make:
        own = function.__module__.removeprefix(f'{METHOD.package}.')
        if own in names() or '.' in own:
            return own
    return f'{GIVEN}{function.__name__}'


def named_function(name: str) -> Callable[..., Method] | None:
    """The function of a method that was given as one; None of a method that has a module."""
    return load(name) if name.startswith(GIVEN) else None


def names(kind: Kind = METHOD) -> list[str]:
    """Return the names of the methods (or wrappers) that ship with mixjax; a wrapper's name is one of a method too."""
    return sorted(places(kind))


def places(kind: Kind = METHOD) -> dict[str, str]:
    """Return {name: module} of the methods (or wrappers) that ship with mixjax."""
    found = places(WRAPPER) if kind is METHOD else {}
    modules = pkgutil.iter_modules(importlib.import_module(kind.package).__path__)
    return found | {info.name: f'{kind.package}.{info.name}' for info in modules if not info.name.startswith('_')}


def load(name: str, origin: str = '', kind: Kind = METHOD) -> Callable[..., Method]:
    """Return the `make` function of a method, or the `wrap` function of a wrapper.

    The module path is the registry: `load('xmixup')` finds a module of `mixjax.methods` (or `mixjax.wrappers`), a
    dotted name such as `load('my_package.my_method')` is imported unchanged.

    Args:
      name: name of the method or wrapper.
      origin: the file that the name was read from, if it was not given by the user's command or config. Importing a
        module of another package runs it, and a file must not cause that: it must have been imported before.
      kind: METHOD or WRAPPER.
    """
    noun, known = kind.noun, places(kind)
    if name.startswith(GIVEN) and kind is METHOD:
        if name not in _given.get({}):
            where = f' of {origin}' if origin else ''
            raise UserError(
                f'the method {name.removeprefix(GIVEN)!r}{where} was given in Python as a function; give it again, in '
                'mixjax.load(workdir, method=make) or mixjax.train.run(config, workdir, method=make)'
            )
        return _given.get({})[name]
    if not all(part.isidentifier() for part in name.split('.')):
        raise UserError(f'{name!r} is not the name of a {noun} or of a module')
    path = known.get(name, name)
    if origin and '.' in name and path not in sys.modules:
        raise UserError(
            f'{origin} names the {noun} {name}, which is not a part of mixjax, and a file may not say what is run; '
            f'import {name} first (the commands have --import={name} for it)'
        )
    if '.' not in name and name not in known:
        raise UserError(f'unknown {noun} {name!r}{nearest(name, known)}; the {noun}s are {", ".join(sorted(known))}')
    module = import_module(path, f'{noun} {name!r}')
    if kind is METHOD and not hasattr(module, kind.function) and callable(getattr(module, WRAPPER.function, None)):
        return as_method(module.wrap, getattr(module, 'AROUND', WRAPPED))
    if not callable(getattr(module, kind.function, None)):
        raise UserError(f'{noun} {name!r}: the module has no function {kind.signature}')
    return getattr(module, kind.function)


def as_method(wrap: Callable[..., Method], inside: str) -> Callable[..., Method]:
    """Return the `make` of a wrapper alone: the wrapper around the method `inside`, with the wrapper's settings."""

    @functools.wraps(wrap)
    def make(classes_t: int, **settings: Any) -> Method:
        return wrap(load(inside)(classes_t), classes_t, **settings)

    return make


def import_module(path: str, what: str) -> Any:
    """Import a module by its dotted name; an error is one sentence that begins with `what`.

    Only for names that the user gave (on a command line or in a config): importing a module runs it.
    """
    if not all(part.isidentifier() for part in path.split('.')):
        raise UserError(f'{what}: {path!r} is not the name of a module, such as my_package.my_module')
    try:
        with user_code(f'{what}: the import'):
            return importlib.import_module(path)
    except UserError as error:
        lost = error.__cause__
        if isinstance(lost, ModuleNotFoundError) and lost.name and f'{path}.'.startswith(f'{lost.name}.'):
            raise UserError(f'{what}: there is no module {lost.name!r} on the Python path') from lost
        raise


def knobs(make: Callable[..., Method], kind: Kind = METHOD) -> dict[str, Any]:
    """Return the hyper-parameters of a method or wrapper with their defaults: its function's keyword-only arguments."""
    function = make.func if isinstance(make, functools.partial) else make
    place = f'{function.__module__}.{getattr(function, "__name__", kind.function)}'
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
    """A method, or a wrapper around it.

    Attributes:
      kind: METHOD or WRAPPER.
      function: its `make` or `wrap` function.
      prefix: prefix of its settings in a config.
      defaults: {setting: default}.
    """

    kind: Kind
    function: Callable[..., Method]
    prefix: str
    defaults: dict[str, Any]


def layers(config: Mapping[str, Any], origin: str = '') -> list[Layer]:
    """Return the method that a config names, then its wrappers from the inside out.

    Args:
      config: {'name': .., 'wrappers': (..), <settings>}. The prefix of a wrapper's settings is its name (the last
        part of a module path) and `_`.
      origin: see `load`.
    """
    wrappers = config.get('wrappers', ())
    if not isinstance(wrappers, (tuple, list)) or not all(isinstance(name, str) for name in wrappers):
        raise UserError(f"wrappers must be names of wrappers, as in ('mixup',), not {wrappers!r}")
    make = load(config['name'], origin)
    found = [Layer(METHOD, make, '', knobs(make))]
    for name in wrappers:
        wrap, prefix = load(name, origin, WRAPPER), f'{name.rpartition(".")[2]}_'
        if prefix in [layer.prefix for layer in found]:
            raise UserError(f'wrappers has {prefix[:-1]!r} twice, and its settings have only one place')
        found.append(Layer(WRAPPER, wrap, prefix, knobs(wrap, WRAPPER)))
    keys = [f'{layer.prefix}{key}' for layer in found for key in layer.defaults]
    twice = next((key for key in keys if keys.count(key) > 1), '')
    if twice:
        raise UserError(f'{title(config)}: two settings would be called {twice!r}; rename the wrapper or its argument')
    return found


def defaults(config: Mapping[str, Any], origin: str = '') -> dict[str, Any]:
    """Return {setting: default} of the method that a config names and of its wrappers."""
    found = layers(config, origin)
    return {f'{layer.prefix}{key}': value for layer in found for key, value in layer.defaults.items()}


def build(config: Mapping[str, Any], classes_t: int, origin: str = '') -> Method:
    """Build the `Method` that a config describes, with its wrappers around it; missing settings have their defaults.

    Args:
      config: see `layers`.
      classes_t: number of target classes.
      origin: see `load`.
    """
    found = layers(config, origin)
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
            if not layer.prefix or error.__cause__ is not None:  # it names the function already
                raise
            raise UserError(f'{layer.prefix[:-1]}: {error}') from error
        method = check_method(made, name, layer.kind)
    return method


def needs_unlabelled(config: Mapping[str, Any]) -> bool:
    """Return whether a method learns from unlabelled images; False if it cannot be built, which is reported later."""
    try:
        return build(config, 2, 'this config').unlabelled > 0
    except UserError:
        return False


def check_method(made: Any, name: str, kind: Kind = METHOD) -> Method:
    """Check the fields of a `Method`, and wrap its functions so that their errors name the function and its file.

    Args:
      made: the value that `make` or `wrap` returned.
      name: name of the method, for messages.
      kind: METHOD or WRAPPER.
    """
    if not isinstance(made, Method):
        raise UserError(
            f'method {name!r}: {kind.function}() must return a mixjax.method.Method, not {type(made).__name__}; end it '
            f'with return {kind.example}'
        )
    functions = {key: made._asdict()[key] for key in FUNCTIONS}
    functions |= {'measures': made.measures} if made.measures is not None else {}
    for key, function in functions.items():
        if not callable(function):
            raise UserError(f'method {name}: Method({key}=..) must be a function, not {type(function).__name__}')
    first = made.first
    if first is not None:
        if not isinstance(first, First) or not callable(first.method) or not 0 < first.share < math.inf:
            raise UserError(f'method {name}: Method(first=..) must be First(method, share), share a number above 0')
        first = first._replace(method=_FirstMethod(first.method, name))
    if not isinstance(made.tasks, tuple) or not made.tasks or not set(made.tasks) <= set(TASKS):
        raise UserError(
            f"method {name}: Method(tasks=..) must be a tuple of some of {', '.join(TASKS)}, such as "
            f"('classification', 'regression'), not {made.tasks!r}"
        )
    _check_phases(made, name)
    _check_views(made, name)
    for groups in (made.groups, *(phase.groups for phase in made.phases)):
        if not callable(groups):
            _check_groups(groups, name)
    guarded: dict[str, Any] = {
        key: UserFunction(function, f'method {name}: {key}') for key, function in functions.items()
    }
    if callable(made.groups):
        guarded['groups'] = UserFunction(made.groups, f'method {name}: groups')
    return made._replace(**guarded, first=first)


BATCH = ('image', 'label', 'index', 'partner', 'source_image', 'source_label', 'unlabelled_index')
FUNCTIONS = ('loss', 'after_step', 'prepare', 'heads', 'init', 'predict', 'parameters', 'evaluated')


class _FirstMethod(NamedTuple):
    """`First.method` with the checks of `check_method`."""

    make: Callable[[int], Method]
    name: str

    def __call__(self, classes: int) -> Method:
        with user_code(f'method {self.name}: first.method', self.make):
            made = self.make(classes)
        return check_method(made, f'{self.name} (first stage)')


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


def _check_phases(made: Method, name: str) -> None:
    phases: Any = made.phases
    if not isinstance(phases, tuple) or not all(isinstance(phase, Phase) for phase in phases):
        raise UserError(
            f'method {name}: Method(phases=..) must be a tuple such as (Phase(0.5, {{"trunk": (0, 0)}}), Phase(0.5)), '
            f'not {phases!r}'
        )
    for phase in phases:
        numbers = phase.share, phase.lr
        if not all(isinstance(x, int | float) and 0 <= x < math.inf for x in numbers) or not phase.share:
            raise UserError(
                f'method {name}: the share of a phase must be a number above 0, and its lr one of at least 0, not '
                f'{phase.share!r} and {phase.lr!r}'
            )
    total = sum(phase.share for phase in phases)
    if phases and abs(total - 1) > 1e-6:
        raise UserError(f'method {name}: the shares of the phases must sum to 1, not {total:g}')


def _check_views(made: Method, name: str) -> None:
    views: Any = made.views
    if not isinstance(views, Mapping) or not all(isinstance(view, View) for view in views.values()):
        raise UserError(
            f"method {name}: Method(views=..) must be a dict such as {{'strong': View('unlabelled', 'randaugment')}}, "
            f'not {views!r}'
        )
    if not (type(made.unlabelled) is int and made.unlabelled >= 0):
        raise UserError(
            f'method {name}: Method(unlabelled=..) must be the number of unlabelled images for each labelled one, not '
            f'{made.unlabelled!r}'
        )
    for key, view in views.items():
        if not isinstance(key, str) or not key.isidentifier() or key in BATCH:
            raise UserError(
                f'method {name}: the name of a view must be a word other than {", ".join(BATCH)}, not {key!r}'
            )
        if view.of not in ('image', 'unlabelled') or (view.of == 'unlabelled' and not made.unlabelled):
            raise UserError(
                f"method {name}: the view {key!r} must be of 'image' or, in a method with Method(unlabelled=1) or "
                f"more, of 'unlabelled', not of {view.of!r}"
            )
        try:
            specification.augmentations(view.augment or '')
        except UserError as error:
            raise UserError(f'method {name}: the view {key!r}: {error}') from error


def for_task(task: str) -> list[str]:
    """Return the names of the methods that ship with mixjax and are for a task."""
    return [name for name in names() if task in build({'name': name}, 10).tasks]


def title(config: Mapping[str, Any]) -> str:
    """Return the title of a method with its wrappers: `l2sp + mixup`."""
    return ' + '.join([config['name'].removeprefix(GIVEN), *config.get('wrappers', ())])
