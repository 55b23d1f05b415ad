"""The work directory of a run: its files, checkpoints, lock, and digests of its inputs.

This package reads and writes the files safely. `mixjax.train` decides their contents, `mixjax.report` shows them.
"""
