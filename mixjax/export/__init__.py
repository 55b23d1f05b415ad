"""Trained networks in the forms that other programs read: timm, torchvision, ONNX, StableHLO.

A form is a module that writes a `Predictor` and reads it back: by the other library, or without it by our own reader of
the file. `write` compares what was read back with the network before it keeps it (`verify`), `card` says in words what
was exported, and `engine` predicts with an ONNX file without JAX and without our networks. Commands and their texts are
in `commands/`, and the files of a run (`model.safetensors`, `model.json`) are the trainer's.
"""
