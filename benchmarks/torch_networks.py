"""PyTorch's side: the networks of `benchmarks.against`, written as their papers have them. Needs torch only."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """A block of 1x1, 3x3 with the stride, 1x1 convolutions and a shortcut."""

    def __init__(self, came: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(came, width, 1, bias=False),
                nn.Conv2d(width, width, 3, stride, 1, bias=False),
                nn.Conv2d(width, out, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in (width, width, out)])
        self.short = nn.Sequential()
        if stride != 1 or came != out:
            self.short = nn.Sequential(nn.Conv2d(came, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(h))
            h = F.relu(h) if i < 2 else h
        return F.relu(h + self.short(x))


class PreActBlock(nn.Module):
    """A block of two 3x3 convolutions of a = relu(BN(x)), and the shortcut: a, or a 1x1 convolution of it."""

    def __init__(self, came: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(came), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(came, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        same = stride == 1 and came == width
        self.short = nn.Identity() if same else nn.Conv2d(came, width, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.norm1(x))
        return self.short(a) + self.conv2(F.relu(self.norm2(self.conv1(a))))


class Network(nn.Module):
    """A stem, four stages of blocks, the mean of the last map, and linear heads: image -> (map, {head: logits})."""

    def __init__(
        self,
        stem: nn.Module,
        block: type[nn.Module],
        counts: tuple[int, ...],
        width: int,
        grow: int,
        heads: dict[str, int],
    ) -> None:
        super().__init__()
        blocks, came = [], width
        for i, count in enumerate(counts):
            for k in range(count):
                blocks.append(block(came, width * 2**i, 2 if i and not k else 1))
                came = grow * width * 2**i
        self.stem, self.stages = stem, nn.Sequential(*blocks)
        self.heads = nn.ModuleDict({name: nn.Linear(came, n) for name, n in heads.items()})

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        last = self.stages(self.stem(image))
        features = last.mean((2, 3))
        return last, {name: head(features) for name, head in self.heads.items()}


def resnet50(heads: dict[str, int]) -> Network:
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )  # fmt: skip
    return Network(stem, Bottleneck, (3, 4, 6, 3), 64, 4, heads)


def preact(counts: tuple[int, ...], width: int, heads: dict[str, int]) -> Network:
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return Network(stem, PreActBlock, counts, width, 1, heads)


class Timm(nn.Module):
    """A network of timm with linear heads: image -> (features, {head: logits})."""

    def __init__(self, name: str, side: int, heads: dict[str, int]) -> None:
        super().__init__()
        import timm  # pyright: ignore[reportMissingImports]

        sized = {'img_size': side} if name.startswith('vit_') else {}
        self.trunk = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        self.heads = nn.ModuleDict({key: nn.Linear(self.trunk.num_features, n) for key, n in heads.items()})

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = self.trunk(image)
        return features, {name: head(features) for name, head in self.heads.items()}


def build(name: str, heads: dict[str, int], side: int = 224) -> nn.Module:
    """Build resnet50, preactresnet18 or small, or else timm's network: as those of these names on the other side."""
    if name == 'resnet50':
        return resnet50(heads)
    if name not in ('preactresnet18', 'small'):
        return Timm(name, side, heads)
    counts, width = {'preactresnet18': ((2, 2, 2, 2), 64), 'small': ((1, 1, 1, 1), 24)}[name]
    return preact(counts, width, heads)
