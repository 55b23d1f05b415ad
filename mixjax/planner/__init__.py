"""Will it fit: the training step of a config, compiled for devices that nobody has to own.

    slices     the chips there are, and the devices of a topology
    assumed    what stands for data and weights: true shapes, no pixels
    compiled   the program of a run, and what its compilation says
    hlo        collectives, read from a compiled program
    verdict    does it fit, and what to change
    tables     all of it as text

`mixjax plan` is the command.
"""
