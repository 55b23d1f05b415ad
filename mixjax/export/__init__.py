"""Trained networks as files that run without mixjax's networks: their graph, their preprocessing and their classes.

A format is a module that writes a file from a `Predictor`; `engine` runs what was written, without JAX. What is common
to all formats, such as the cost of a precision, is here too. Commands and their texts are in `commands/`, and the files
of a run (`model.safetensors`, `model.json`) are the trainer's.
"""
