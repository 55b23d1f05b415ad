"""The contract between a method and the trainer.

A method is a value: a `Method` holds a few pure functions, of which only `loss` is required. The
trainer never names a method, and a method never knows where its pixels came from or how many chips
there are. `docs/contract.md` explains the contract with examples.

Four lifetimes, four places:

    params    optimised; checkpointed
    state     changed by `after_step`; checkpointed (an EMA teacher, corrected labels)
    frozen    constant for a seed; made by `prepare`, kept in the work directory, read back on resume
    pretrained()  the network training started from; shared by all seeds, reloaded from its weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from mixjax import losses
from mixjax.errors import UserError
from mixjax.models.net import Net, Out

Array = jax.Array
Tree = Any
TASKS = ('classification', 'multi_label', 'regression')


Groups = Mapping[str, tuple[float, float]] | Callable[[tuple[str, ...], Tree], tuple[float, float]]


class Head(NamedTuple):
    """A classifier on the pooled features.

    width: its number of classes.
    rows: None for a fresh head; else, for each of its classes, the class of the pretrained
        classifier whose weights it starts from, with -1 for a fresh one.
    std: None draws fresh weights and biases by torch's default for a linear layer; a number draws
        weights from N(0, std^2) with biases 0.
    kernel, bias: (d, width) and (width,), the weights to start from, such as those that `prepare` fitted.
    """

    width: int
    rows: np.ndarray | None = None
    std: float | None = None
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None


class Segments(NamedTuple):
    """The distribution from which one source image is drawn for each target image.

    A target class has one or more segments of `rows`. A draw chooses a segment of the target's
    class uniformly, then a row of that segment uniformly; with `union`, a row of all its segments
    uniformly. Classes may share segments.

    rows: (n,) rows of the source data set.
    start, count: (classes_t, rounds) the place in `rows` where each segment begins, and its length.
    rounds: (classes_t,) the number of segments of the class; the rest of its line is padding.
    score: (classes_t, rounds) the similarity a segment was chosen by, shown in the pair table; None if there is none.
    """

    rows: np.ndarray
    start: np.ndarray
    count: np.ndarray
    rounds: np.ndarray
    score: np.ndarray | None = None
    union: bool | np.ndarray = False


class Prepared(NamedTuple):
    """The result of a method's `prepare`.

    frozen: a (nested) dict of arrays.
    draw: the distribution of the source batch, if there is one.
    notes: numbers to record (a similarity, a fitted scale); they go into `results.json`, and with a draw
        into the report.
    """

    frozen: Tree = ()
    draw: Segments | None = None
    notes: Mapping[str, float] = {}


def _alike(params: Tree) -> Tree:
    return jax.tree.map(lambda _: (1.0, 1.0), params)


class Run(NamedTuple):
    """Constants of the run that a method may use, the same at every step of a phase.

    The functions are `jax.tree_util.Partial`s, so that a context can be the argument of a compiled function.

    phase: the number of the phase, from 0. starts: the first step of each phase.
    loss: the loss of the run's task, (logits, label) -> (B,); `Ctx.loss` calls it.
    factors: parameters -> the tree of their (learning rate factor, decay factor) in this phase, as the method, its
        phases and the config set them; (0, 0) is frozen.
    """

    total_steps: int
    steps_per_epoch: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    phase: int = 0
    starts: tuple[int, ...] = (0,)
    loss: Callable[[Array, Array], Array] = Partial(losses.cross_entropy)
    factors: Callable[[Tree], Tree] = Partial(_alike)


class Ctx(NamedTuple):
    """Everything that a loss may read besides the parameters; read-only.

    batch: image (B, H, W, C) float, label (B,) int32 (or of other tasks (B, outputs) float32), index (B,) row of the
        example in the labelled target set, partner (see `mix.partner`); with a `draw` also source_image, source_label;
        the method's `views` by their names; with `unlabelled` also unlabelled_index, rows of the unlabelled images.
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
        """Return the variables for `net.apply`: these parameters with the current model state."""
        return {'params': params, **self.model_state}

    def loss(self, logits: Array, label: Array) -> Array:
        """Return the loss of the run's task, (B,): for classification `losses.cross_entropy`.

        logits: (B, outputs). label: `batch['label']`, or soft targets (B, outputs) such as mixed labels.
        """
        return self.run.loss(logits, label)


class Aux(NamedTuple):
    """The results of a loss besides its value.

    model_state: the model state after the forward pass in train mode.
    metrics: {name: scalar}, logged.
    carry: anything `after_step` needs from the forward pass.
    """

    model_state: Tree
    metrics: Mapping[str, Array] = {}
    carry: Tree = ()


def _no_features() -> np.ndarray:
    raise UserError('this part of the data has no features: it was made without a pretrained network')


class Part(NamedTuple):
    """The training examples of the target or the source, as `prepare` and `init` see them.

    classes: class names in label order; of other tasks those of the outputs. labels: as in a batch, (n,) int or (n,
        outputs). sizes: (classes,) images of each class, or of each output those that are not 0. Unlabelled images
        have the label -1, and no classes.
    names: of the examples, such as the paths of their files; empty where they have none.
    batches(size, augmented=False, per_class=None): batches with image, label, index; in order and each
        example once (the last one may be short), or without end and augmented as in training. With
        `per_class`, at most so many examples of each class, always the same ones.
    class_means(per_class=None): (classes, d) mean pretrained feature of each class, over at most
        `per_class` of its images; computed once and shared by all seeds.
    features(): (n, d) float32 pretrained features of all images, centre-cropped; computed once, and kept on disk.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    batches: Callable[..., Iterator[dict[str, Array]]]
    class_means: Callable[..., np.ndarray]
    features: Callable[[], np.ndarray] = _no_features
    names: Sequence[str] = ()


class Data(NamedTuple):
    """The target, source and unlabelled data.

    `source` is None if the config names no source data set, and `unlabelled` if the run has no unlabelled images.
    loss: as `Run.loss`, for a `prepare` that trains.
    mean, std: of each colour, by which the images of all batches are normalised.
    model_state: the model state at step 0, for `init` only; `prepare` sees none.
    """

    target: Part
    source: Part | None = None
    unlabelled: Part | None = None
    loss: Callable[[Array, Array], Array] = losses.cross_entropy
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    model_state: Tree = {}


def _target_head(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
    del classes_s, prepared
    return {'target': Head(classes_t)}


def _keep(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
    del net, old, aux
    return new, ctx.state


def _network(net: Net, variables: Tree, state: Tree) -> Tree:
    del net, state
    return {**variables, 'params': {name: variables['params'][name] for name in ('backbone', 'heads')}}


class First(NamedTuple):
    """Training on the source images that `draw` selects, before the run itself (mid-tuning).

    method: classes -> Method; the classes are those of the selected images. The run then starts from
        the trunk and the statistics that this training ends with.
    share: its length, as a share of the run's steps. It uses the run's optimiser and schedule.
    """

    method: Callable[[int], Method]
    share: float = 1.0


class Phase(NamedTuple):
    """A stretch of the run's steps in which other parts of the network learn, or at another rate.

    share: its length, as a share of the run's steps; the shares of all phases sum to 1.
    groups: factors on the learning rate and the weight decay, as in `Method.groups`, by which they are multiplied.
    lr: a factor on the learning rate of all parts.
    restart: whether the learning rate schedule begins anew and lasts for this phase. Otherwise it is the part of the
        run's schedule that belongs to these steps.
    statistics: whether BatchNorm uses the statistics of the batch, and its running ones follow. If not, it uses the
        running ones, as in evaluation, and they stay. Dropout is on in both.
    """

    share: float
    groups: Groups = {}
    lr: float = 1.0
    restart: bool = False
    statistics: bool = True


class View(NamedTuple):
    """A further augmentation of the images in a batch, under a name of its own.

    of: `image` for the labelled images, (B, H, W, C), or `unlabelled`, (`Method.unlabelled` * B, H, W, C).
    augment: operations after the crop and flip, as in `config.image.augment`; None for those of the config.
    """

    of: str = 'image'
    augment: str | None = None


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
        The method's state at step 0. Default: ().
    predict(out) -> (B, classes_t) logits
        The logits that evaluation uses. Default: the head `target`.
    measures(out, label) -> {name: (B,)}
        Numbers of each test example besides the accuracy, inside jit: `out` of the network in eval mode, `label` as in
        a batch. Their means over the test part are logged, and are in the results and the report. Default: None.
    groups: {part: (lr factor, decay factor)}, or a function (path, params) -> (lr factor, decay factor)
        Parts are `stem`, `stage1` .., `head:<name>`, or `trunk` and `heads` for all of a kind, or a sub-tree that
        `parameters` adds; the more exact name wins. (0, 0) freezes. A function gets the path of each parameter, a tuple
        of its keys, and all parameters. Default: 1 and 1 everywhere.
    parameters(net, params, rng) -> params
        The parameters at step 0, made of those of the network: `backbone` and `heads` keep their shapes, and further
        sub-trees are trained beside them (adapters, a projection). Default: those of the network.
    evaluated(net, variables, state) -> variables
        The variables of the network that is evaluated, kept, exported and predicted with: a pure function of the
        checkpoint, inside jit. `variables` are {'params': .., **model_state}, with all sub-trees of `parameters`; the
        result has those of the network only. Default: the parameters `backbone` and `heads`, and the model state.
    phases: stretches of the steps in which other parts learn, see `Phase`. Default: one phase.
    views: {name: View}, further views of the images, in `ctx.batch` under these names.
    unlabelled: number of unlabelled images in a batch for each labelled one; they come from `config.unlabelled`.
    trains: whether there are any steps of training. If not, the network is evaluated as `heads` and `init` leave it.
    first: a `First`, or None.
    whole_batch: whether the loss is more than a mean over the examples of a batch (a norm of all its features, a
        softmax over it), so that a batch must not be split into parts (`config.accumulate`).
    soft_labels: whether the loss takes soft targets (B, classes_t) in the place of the labels (B,), as
        `losses.cross_entropy` does; wrappers that mix labels need it.
    tasks: names of the tasks that the method is for, of 'classification', 'multi_label' and 'regression'. A loss that
        calls `ctx.loss` in the place of `losses.cross_entropy` is right for all three. Default: classification.
    batch_kinds: names of the kinds of batch that the loss alternates between; step i has the kind
        batch_kinds[i % len(batch_kinds)]. Every kind is logged, and shown as a separate curve. Default: all steps
        are alike.
    """

    loss: Callable[[Net, Tree, Ctx], tuple[Array, Aux]]
    after_step: Callable[[Net, Tree, Tree, Aux, Ctx], tuple[Tree, Tree]] = _keep
    prepare: Callable[[Net, Data, Array], Prepared] = lambda net, data, rng: Prepared()
    heads: Callable[[int, int, Prepared], dict[str, Head]] = _target_head
    init: Callable[[Net, Tree, Prepared, Data], Tree] = lambda net, params, prepared, data: ()
    predict: Callable[[Out], Array] = lambda out: out.logits['target']
    measures: Callable[[Out, Array], Mapping[str, Array]] | None = None
    groups: Groups = {}
    parameters: Callable[[Net, Tree, Array], Tree] = lambda net, params, rng: params
    evaluated: Callable[[Net, Tree, Tree], Tree] = _network
    phases: tuple[Phase, ...] = ()
    views: Mapping[str, View] = {}
    unlabelled: int = 0
    trains: bool = True
    first: First | None = None
    whole_batch: bool = False
    soft_labels: bool = False
    batch_kinds: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ('classification',)

    @property
    def period(self) -> int:
        """The number of steps after which the kinds of batch repeat."""
        return len(self.batch_kinds) or 1
