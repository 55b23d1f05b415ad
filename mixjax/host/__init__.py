"""The machine: storage on disk or in a bucket, untrusted files, processes, signals, caches, progress.

Code that would be the same for any training program. Nothing here depends on networks, data sets, methods or the
layout of a work directory.
"""
