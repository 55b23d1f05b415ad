"""`python -m mixjax.main --config=configs/quickstart.py --workdir=runs/quickstart`, the same as `mixjax train`."""

from __future__ import annotations

import sys

from mixjax.commands.train import main

if __name__ == '__main__':
    sys.exit(main())
