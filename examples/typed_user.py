"""Train, compare and predict in Python, with a type for everything: pyright checks this file in strict mode.

python examples/typed_user.py runs/typed
"""

import sys
from pathlib import Path
from typing import assert_type

import jax
import numpy as np
from PIL import Image

import mixjax
from mixjax import losses
from mixjax.api import Accuracy
from mixjax.inference import Floats, Ranked
from mixjax.method import Aux, Ctx, Method
from mixjax.models.create import Variables
from mixjax.models.net import Net, Out

CLASSES = ('horizontal', 'vertical')


def stripes(count: int, seed: int) -> mixjax.Dataset:
    """Noisy pictures of stripes, which lie or stand."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    lying = np.repeat(np.arange(16)[:, None] // 2 % 2, 16, axis=1)
    clean = np.stack([lying.T if label else lying for label in labels])
    images = (155 * clean + rng.integers(0, 100, clean.shape)).astype(np.uint8)
    return mixjax.Dataset.from_arrays(images, labels, CLASSES, name='stripes')


def smooth(classes_t: int, *, smoothing: float = 0.1) -> Method:
    """A method of one's own: fine-tuning with smoothed labels."""

    def loss(net: Net, params: Variables, ctx: Ctx) -> tuple[jax.Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        target = losses.one_hot(ctx.batch['label'], classes_t, smoothing)
        return losses.soft_cross_entropy(out.logits['target'], target).mean(), Aux(model_state)

    return Method(loss)


def settings() -> mixjax.Config:
    """A small network that knows printed letters, and a few steps."""
    config = mixjax.config.base()
    config.model.name, config.model.weights = 'glyphnet', 'embedded://glyphnet'
    config.optim.lr = 0.02
    config.steps, config.batch_size, config.eval_every = 16, 8, 8
    config.image.flip = False
    assert_type(config.optim.lr, float)
    assert_type(config.image.mean, tuple[float, ...])
    assert_type(config.target.per_class, int)
    assert_type(config.method.name, str)
    return config


def one_run(workdir: Path) -> None:
    """Train, and look at what came out."""
    results = mixjax.train.run(settings(), workdir, target=stripes(40, 0), test=stripes(40, 1), progress=False)
    assert_type(results, mixjax.Results)
    assert_type(results.accuracy, Accuracy)
    assert_type(results.accuracy.mean, float)
    assert_type(results.accuracy.std, float | None)
    assert_type(results.accuracy.per_seed, tuple[float, ...])
    assert_type(results.runs, dict[str, mixjax.Results])
    assert_type(results.workdir, Path)
    assert_type(results.report(), Path)
    print(f'{100 * results.accuracy.mean:.0f} % correct')
    predictions(results.model(), workdir)


def predictions(model: mixjax.Predictor, workdir: Path) -> None:
    """All that a predictor takes, and what it gives."""
    array = np.repeat(np.arange(16) % 4 // 2 * 255, 16).reshape(16, 16).astype(np.uint8)
    picture = Image.fromarray(array)
    path = workdir / 'picture.png'
    picture.save(path)
    found = model(path)
    assert_type(found, mixjax.Prediction)
    assert_type(found[0], Ranked)
    assert_type(found.name, str)
    assert_type(found.probability, float)
    assert_type(model(picture), mixjax.Prediction)
    assert_type(model(array), mixjax.Prediction)
    assert_type(model(path.read_bytes()), mixjax.Prediction)
    assert_type(model([path, picture, array]), list[mixjax.Prediction])
    assert_type(model.probabilities([path, picture]), Floats)
    assert_type(model.features(array[None, :, :, None]), Floats)
    print(f'the picture is {found.name} ({found.probability:.2f})')


def comparison(workdir: Path) -> None:
    """A method of one's own beside one that ships."""
    methods = {'finetune': 'finetune', 'smooth': smooth}
    results = mixjax.train.run(settings(), workdir, target=stripes(40, 0), method=methods, progress=False)
    for label, one in results.runs.items():
        assert_type(label, str)
        assert_type(one.accuracy.mean, float)
        print(f'{label}: {100 * one.accuracy.mean:.0f} % correct')
    assert_type(results.model('smooth'), mixjax.Predictor)
    assert_type(mixjax.load(workdir / 'smooth', method=smooth), mixjax.Predictor)


def merged(workdir: Path) -> None:
    """The mean of both networks of the comparison; their images were given, so no accuracy is told."""
    out = mixjax.merge(workdir, workdir.parent / f'{workdir.name}-merged', uniform=True)
    assert_type(out.parts, dict[str, float])
    assert_type(out.workdir, Path)
    assert_type(out.model(), mixjax.Predictor)
    print(f'merged: {len(out.parts)} networks')


def own_loop() -> None:
    """The network alone, in a loop of one's own."""
    network, variables = mixjax.create_model('glyphnet', 'embedded://glyphnet', classes=2)
    assert_type(network, Net)
    assert_type(variables, Variables)
    images = np.zeros((4, 16, 16, 1), np.float32)
    out, _ = network.apply(variables, images, train=False)
    assert_type(out, Out)
    assert_type(out.logits['target'], jax.Array)
    assert_type(out.features, jax.Array)


def main(folder: Path) -> None:
    """Do all of it in a folder."""
    one_run(folder / 'one')
    comparison(folder / 'two')
    merged(folder / 'two')
    own_loop()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
