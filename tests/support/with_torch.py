"""torch and its model libraries, for the few tests and the script that compare with them; nothing else imports them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def libraries() -> tuple[Any, Any, Any]:
    """(torch, torchvision, timm); ImportError where one is missing.

    torchvision's compiled operators do not load beside a CPU-only torch, and the networks need none of them: their
    registration is skipped.
    """
    import torch  # pyright: ignore[reportMissingImports]

    register = torch.library.register_fake

    def skipping(name: Any, *args: Any, **kwargs: Any) -> Any:
        if str(name).startswith('torchvision::'):
            return lambda function: function
        return register(name, *args, **kwargs)

    torch.library.register_fake = skipping
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            import timm  # pyright: ignore[reportMissingImports]
            import torchvision  # pyright: ignore[reportMissingImports]
    finally:
        torch.library.register_fake = register
    return torch, torchvision, timm


def randomise(model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Give every tensor of a torch model random values, in place; the state dict, in float32.

    Kernels have gain sqrt(2), so that what reaches the classifier still depends on the image; no running
    statistic and no scale is trivial.
    """
    import torch  # pyright: ignore[reportMissingImports]

    rng, state = np.random.default_rng(seed), {}
    for name, tensor in model.state_dict().items():
        z = rng.standard_normal(tuple(tensor.shape))
        if name.endswith('num_batches_tracked'):
            value = np.asarray(7)
        elif name.endswith('running_var'):
            value = 1 + 0.1 * np.abs(z)
        elif tensor.ndim > 1:
            value = z * (2 / np.prod(tensor.shape[1:])) ** 0.5
        elif name.endswith('weight'):
            value = 1 + 0.1 * z
        else:
            value = 0.1 * z
        state[name] = value.astype(np.float32) if value.dtype == np.float64 else value
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return state


def logits(model: Any, image: np.ndarray) -> np.ndarray:
    """What a torch model says in eval mode and float64 of (B, H, W, C) images."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        said = model.double().eval()(torch.from_numpy(image.astype(np.float64).transpose(0, 3, 1, 2).copy()))
    return getattr(said, 'logits', said).numpy()
