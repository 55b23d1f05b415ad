"""The work directory of a run: its files, checkpoints, lock, and digests of what went in.

What lies there and how it is read and written safely. What the numbers mean is decided by `mixjax.train`, how they are
shown by `mixjax.report`.
"""
