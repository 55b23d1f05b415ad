"""The machine: storage on disk or in a bucket, untrusted files, processes, signals, caches, progress.

What runs on one host and would be the same for any training program. Nothing here knows of networks, data sets,
methods or the layout of a work directory.
"""
