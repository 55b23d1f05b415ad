"""Training: `run(config, workdir)` does everything that a config says. It names no method and no data set."""

from mixjax.train.loop import run

__all__ = ['run']
