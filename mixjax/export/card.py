"""The card of an exported network: `README.md`, as the hub shows it.

Of the user's paths it has the last names alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mixjax.export.cost import Cost
from mixjax.export.network import Exported
from mixjax.export.paths import without_paths
from mixjax.export.verify import Verified
from mixjax.maths import selection
from mixjax.models.weights import hub

# {the directory of the export} stands for it in these.
USE = {
    'timm': '''```python
import timm, torch
from PIL import Image

model = timm.create_model('local-dir:FOLDER', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = transform(Image.open('photo.jpg').convert('MODE'))
with torch.no_grad():
    outputs = model(image[None])
LAST
```

transformers opens the same folder: `AutoModelForImageClassification.from_pretrained('FOLDER')`.''',
    'torchvision': '''```python
import json, torch, torchvision
from safetensors.torch import load_file

about = json.load(open('FOLDER/preprocessing.json'))
model = torchvision.models.get_model(about['model'], num_classes=len(about['classes']))
model.load_state_dict(load_file('FOLDER/model.safetensors'))
model.eval()
```''',
    'onnx': '''```python
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession('FOLDER/model.onnx')
image = np.asarray(Image.open('photo.jpg').convert('MODE'))  # any size
(outputs,) = session.run(None, {'images': image.reshape(1, *image.shape[:2], -1)})
```

The resizing, the crop and the colours are in the file. `mixjax predict --engine=onnx --workdir=FOLDER photo.jpg` does
the same.''',
    'stablehlo': '''```python
import jax

function = jax.export.deserialize(bytearray(open('FOLDER/model.stablehlo', 'rb').read())).call
outputs = function(images)  # SHAPE uint8, resized and cut as model.json says
```

`mixjax predict --engine=stablehlo --workdir=FOLDER photo.jpg` reads and resizes files, too.''',
    'safetensors': '''```python
import mixjax

model = mixjax.load('FOLDER')
model('photo.jpg')
```''',
}  # fmt: skip


def text(exported: Exported, form: str, verified: Verified, paid: Cost | None = None) -> str:
    """Return the card of a network in a form.

    Args:
      exported: the network.
      form: name of the form.
      verified: the comparison.
      paid: the cost of the precision.
    """
    predictor, about = exported.predictor, exported.about
    noun = 'outputs' if predictor.task.scaled else 'labels' if predictor.task.rows else 'classes'
    names = ', '.join(markdown(name) for name in predictor.classes)
    parts = [
        front(exported, form),
        f'# {about["model"]}, fine-tuned for {len(predictor.classes)} {noun}\n',
        f'{noun.capitalize()}: {names}\n',
        '## Use\n',
        use(exported, form) + '\n',
        '## Facts\n',
        *[f'- {line}' for line in lines_of(exported)],
        f'- Export: {verified.words()}.',
        *([f'- {paid.words()}.'] if paid is not None else []),
        '\n## Limits\n',
        *[f'- {line}' for line in limits(exported)],
    ]
    return '\n'.join(parts) + '\n'


def front(exported: Exported, form: str) -> str:
    """Return what the hub reads at the top of a card."""
    lines = ['---', 'tags: [image-classification, mixjax]']
    if form == 'timm':
        lines = ['---', 'tags: [image-classification, timm, mixjax]', 'library_name: timm']
    if exported.about.get('licence'):
        lines.append(f'license: {json.dumps(str(exported.about["licence"]).lower())}')
    return '\n'.join([*lines, '---', ''])


def use(exported: Exported, form: str) -> str:
    """Return how the files are used."""
    predictor = exported.predictor
    last = {
        'classification': 'probabilities = outputs.softmax(-1)[0]',
        'multi_label': 'probabilities = outputs.sigmoid()[0]',
        'regression': 'numbers = outputs[0]',
    }[predictor.task.name]
    geometry, rule = predictor.network.geometry, predictor.rule
    colours = len(geometry.mean) if len(geometry.mean) > 1 else rule.channels
    side = rule.side or geometry.crop
    words = {'MODE': 'RGB' if colours == 3 else 'L', 'LAST': last, 'SHAPE': f'(n, {side}, {side}, {rule.channels})'}
    if form in ('onnx', 'stablehlo'):
        words['MODE'] = 'RGB' if rule.channels == 3 else 'L'
    found = USE[form]
    for name, word in words.items():
        found = found.replace(name, word)
    return found.replace('FOLDER', '.')


def lines_of(exported: Exported) -> list[str]:
    """Return what is known of the network, a line each."""
    about, facts = exported.about, exported.facts
    config, predictor = facts.get('config', {}), exported.predictor
    method = about.get('method', {}).get('name', '')
    lines = [f'Network: {about["model"]} (timm calls it {hub.architecture_of(about["model"])}).'
             if hub.architecture_of(about['model']) != about['model'] else f'Network: {about["model"]}.']  # fmt: skip
    start = config.get('model', {}).get('weights', '')
    if start:
        lines.append(f'Weights that it began from: {without_paths(start)}.')
    lines.append(f'Their licence: {about.get("licence") or "not known"}.')
    if method:
        lines.append(f'Method: {method}, {about.get("step", about.get("steps", "?")):,} steps.')
    lines.append(f'Data: {about.get("data") or "not known"}{labels_per_class(facts)}.')
    lines += accuracy(facts)
    if predictor.temperature != 1:
        lines.append(f'The probabilities are calibrated: a temperature of {predictor.temperature:.3g} is in them.')
    if predictor.threshold:
        lines.append(
            f'Below a probability of {predictor.threshold:.3g} for the likeliest class, an image is unknown.'
        )  # fmt: skip
    rule, geometry = predictor.rule, predictor.network.geometry
    how = 'both sides' if rule.fit == 'squash' else 'the shorter side'
    if rule.side:
        lines.append(f'Images: {how} to {rule.side} ({rule.interpolation}), then the {geometry.crop} in the middle.')
    if about.get('dtype') == 'bfloat16':
        lines.append('It was trained in bfloat16, and is exported in float32.')
    command = facts.get('env', {}).get('command', '')
    if command:
        lines.append(f'Command: `{without_paths(command)}`, mixjax {facts["env"].get("mixjax", "")}.')
    return lines


def labels_per_class(facts: Mapping[str, Any]) -> str:
    """Return the number of labelled images, overall and of a class."""
    counts = facts.get('labels per class')
    if not counts:
        return ''
    spread = f'{min(counts):,}' if min(counts) == max(counts) else f'{min(counts):,} to {max(counts):,}'
    return f', {sum(counts):,} labelled images, {spread} of each class'


def accuracy(facts: Mapping[str, Any]) -> list[str]:
    """Return the accuracy to expect, with its interval, as far as it was measured."""
    best, results = facts.get('best'), facts.get('results', {})
    if best:
        known = best.get('test', best['expected'])
        low, high = known['interval']
        where = f'of {known["images"]:,} test images' if 'test' in best else 'in cross-validation'
        return [interval(known['accuracy'], where, low, high)]
    first = next(iter(results.get('seeds', [])), {})
    share, count = first.get('accuracy'), results.get('test_examples', 0)
    if share is None or not count:
        return ['Accuracy: not measured.']
    if results.get('task') and results.get('primary'):
        return [f'{results["primary"]}: {share:.4g} on {count:,} test images.']
    low, high = selection.wilson(share, count)
    return [interval(share, f'of {count:,} test images', low, high)]


def interval(share: float, where: str, low: float, high: float) -> str:
    """Return an accuracy with its interval as a sentence."""
    return f'Accuracy: {100 * share:.1f} % {where} (90 % interval {100 * low:.1f} to {100 * high:.1f} %).'


def limits(exported: Exported) -> list[str]:
    """Return what the network cannot do."""
    lines = ['It knows the classes above and no others: an image of anything else gets one of them.']
    if exported.predictor.threshold:
        lines = ['An image that is of none of the classes may still get one of them.']
    if exported.predictor.temperature == 1 and exported.predictor.task.name == 'classification':
        lines.append('Its probabilities are not calibrated (mixjax calibrate).')
    lines.append(
        'It was measured on images like those it was trained on; with other cameras or places it may be worse.'
    )
    return lines


def markdown(name: str) -> str:
    """Return a class name that Markdown shows as it is."""
    return re.sub(r'([\\`*_{}\[\]()#+!|<>])', r'\\\1', ' '.join(name.split()))
