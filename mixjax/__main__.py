"""`python -m mixjax`: the command `mixjax`, where it is not on the path."""

from __future__ import annotations

import sys

from mixjax.commands.cli import main

if __name__ == '__main__':
    sys.exit(main())
