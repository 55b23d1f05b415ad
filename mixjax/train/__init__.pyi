"""What `__init__.py` loads when it is first used, for type checkers and editors."""

from mixjax.api import run as run

__all__ = ['run']
