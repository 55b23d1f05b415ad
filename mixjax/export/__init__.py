"""Trained networks in the forms that other programs read: timm, torchvision, ONNX, StableHLO.

A form is a module with a writer and a reader: what was written is read back by the other library, or without it by our
own reader of the file, and compared with the network before it is kept (`verify`). `write` does all of it, `card` says
in words what was exported, and `engine` predicts with an exported file without our networks.
"""
