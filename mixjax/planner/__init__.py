"""The planner: compiles the training step of a config for devices that need not exist, and checks whether it fits.

    slices     the known chips, and the devices of a topology
    assumed    stand-ins for data and weights: true shapes, no pixels
    compiled   the program of a run, and the results of its compilation
    hlo        collectives, read from a compiled program
    verdict    whether it fits, and advice on changes
    tables     the plan as text

`mixjax plan` is the command.
"""
