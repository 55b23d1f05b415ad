"""PyTorch's side: trains and reports the seconds. Needs torch, and nothing of mixjax.

    python benchmarks/torch_train.py '{"network": "small", "method": "mixup", "way": "tuned", "side": 32, "batch": 8}'

It builds everything, trains a few steps to warm up, writes a line with "ready" in it, and waits: for each line with a
number on its standard input it trains so many steps and writes their seconds. `benchmarks.against` takes turns
with it.

network: of torch_networks.py, or a name in timm
way: tuned     bfloat16 autocast, channels_last, torch.compile, images on the device, no wait for the device in a step
     resident  float32, no compiling, images on the device
     loader    float32, no compiling, a loader with two workers, the loss read in every step: as published scripts do
method: plain, mixup, or smile
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch_networks import build

IMAGES, BORDER, WARM = 4096, 32, 5
CLASSES, CLASSES_S = 10, 160
EMA, EMA_EVERY = 0.999, 10
Batch = tuple[torch.Tensor, torch.Tensor]


class Photographs(torch.utils.data.Dataset):
    """Images in memory, each with a random crop, a random flip, and normalised, as a script's transforms do it."""

    def __init__(self, side: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.side = side
        self.pixels = torch.randint(0, 256, (256, side + BORDER, side + BORDER, 3), dtype=torch.uint8, generator=random)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        top, left = (int(n) for n in torch.randint(0, BORDER + 1, (2,)))
        image = self.pixels[index % 256, top : top + self.side, left : left + self.side].permute(2, 0, 1)
        image = image.flip(-1) if torch.rand(()) < 0.5 else image
        return (image.float() / 255 - 0.5) / 0.5, index % CLASSES


def loaded(side: int, batch: int, device: torch.device) -> Iterator[Batch]:
    loader = torch.utils.data.DataLoader(
        Photographs(side), batch, shuffle=True, num_workers=2, drop_last=True, pin_memory=device.type == 'cuda'
    )
    while True:
        for image, label in loader:
            yield image.to(device, non_blocking=True), label.to(device, non_blocking=True)


def resident(side: int, batch: int, device: torch.device, last: bool) -> Iterator[Batch]:
    """Yield the same crops of images that are on the device, a whole batch at once."""
    data = Photographs(side)
    # As many as the other side has.
    pixels = data.pixels.repeat(IMAGES // 256, 1, 1, 1).to(device)
    labels = torch.arange(IMAGES, device=device) % CLASSES
    window = torch.arange(side, device=device)
    while True:
        order = torch.randperm(IMAGES, device=device)
        for rows in order[: IMAGES - IMAGES % batch].split(batch):
            corner = torch.randint(0, BORDER + 1, (2, batch, 1), device=device)
            down, across = (corner[i] + window for i in range(2))
            mirrored = torch.rand(batch, 1, device=device) < 0.5
            across = torch.where(mirrored, across.flip(1), across)
            image = pixels[rows[:, None, None], down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
            image = (image.float() / 255 - 0.5) / 0.5
            image = image.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            yield image, labels[rows]


# --- the loss ---------------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """A batch, its mixing coefficient (), and the place of each example's partner (B,)."""

    image: torch.Tensor
    label: torch.Tensor
    lam: torch.Tensor
    partner: torch.Tensor

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        return self.lam * x + (1 - self.lam) * x[self.partner]


def plain(net: nn.Module, teacher: nn.Module | None, given: Given) -> torch.Tensor:
    return F.cross_entropy(net(given.image)[1]['target'].float(), given.label)


def mixed_ce(logits: torch.Tensor, given: Given) -> torch.Tensor:
    own, other = (F.cross_entropy(logits, label) for label in (given.label, given.label[given.partner]))
    return given.lam * own + (1 - given.lam) * other


def mixup(net: nn.Module, teacher: nn.Module | None, given: Given) -> torch.Tensor:
    return mixed_ce(net(given.mix(given.image))[1]['target'].float(), given)


def smile(net: nn.Module, teacher: nn.Module | None, given: Given) -> torch.Tensor:
    assert teacher is not None
    with torch.no_grad():
        feature_t, logits_t = teacher(given.image)
        feature_t, source_t = given.mix(feature_t.float()), given.mix(logits_t['source'].float().softmax(-1))
    feature, logits = net(given.mix(given.image))
    between = (feature.float() - feature_t).norm() / (feature.shape[2] * feature.shape[3])
    source_ce = F.cross_entropy(logits['source'].float(), source_t)
    return mixed_ce(logits['target'].float(), given) + 0.01 * between + 0.1 * source_ce


LOSSES: dict[str, Callable[..., torch.Tensor]] = {'plain': plain, 'mixup': mixup, 'smile': smile}
ALPHA = {'plain': 1.0, 'mixup': 1.0, 'smile': 0.2}


# --- training ---------------------------------------------------------------------------------------------------------


class Trainer:
    """A network, its optimiser, and its batches."""

    def __init__(self, asked: dict[str, Any], device: torch.device) -> None:
        self.asked, self.device, self.done = asked, device, 0
        self.tuned, self.method = asked['way'] == 'tuned', asked['method']
        torch.manual_seed(0)
        heads = {'target': CLASSES} | ({'source': CLASSES_S} if self.method == 'smile' else {})
        layout = torch.channels_last if self.tuned else torch.contiguous_format
        self.net = build(asked['network'], heads, asked['side']).to(device, memory_format=layout)
        self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False) if self.method == 'smile' else None
        self.optim = torch.optim.SGD(
            self.net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4,
            fused=True if self.tuned and device.type == 'cuda' else None,
        )  # fmt: skip
        self.loss = torch.compile(LOSSES[self.method]) if self.tuned else LOSSES[self.method]
        batches = loaded if asked['way'] == 'loader' else functools.partial(resident, last=self.tuned)
        self.batches = batches(asked['side'], asked['batch'], device)
        self.law = torch.distributions.Beta(*[torch.tensor(ALPHA[self.method], device=device)] * 2)

    def step(self) -> None:
        image, label = next(self.batches)
        lam = self.law.sample()
        lam = torch.maximum(lam, 1 - lam) if self.method == 'smile' else lam
        given = Given(image, label, lam, torch.randperm(len(label), device=self.device))
        if self.teacher is not None and self.done % EMA_EVERY == 0:
            self.average()
        self.optim.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16) if self.tuned else contextlib.nullcontext():
            loss = self.loss(self.net, self.teacher, given)
        loss.backward()
        self.optim.step()
        if self.asked['way'] == 'loader':
            loss.item()
        self.done += 1

    @torch.no_grad()
    def average(self) -> None:
        """Move the trunk of the teacher towards the student's."""
        assert self.teacher is not None
        for name in ('stem', 'stages'):
            mine, its = (list(getattr(one, name).parameters()) for one in (self.teacher, self.net))
            torch._foreach_lerp_(mine, its, 1 - EMA)

    def train(self, steps: int) -> float:
        """Return the seconds of so many steps."""
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def main() -> None:
    asked = json.loads(sys.argv[1])
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.backends.cudnn.benchmark = asked['way'] == 'tuned'
    trainer = Trainer(asked, device)
    trainer.train(asked.get('warm', WARM))
    about = {'device': device.type, 'torch': torch.__version__, 'pixels': IMAGES}
    print(json.dumps({'ready': about}), flush=True)
    for line in sys.stdin:
        print(json.dumps({'seconds': trainer.train(int(line))}), flush=True)


if __name__ == '__main__':
    main()
