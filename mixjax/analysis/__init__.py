"""The measures of the papers besides accuracy: pure functions, and the reading of a finished run.

`interpolation`, `spectrum`, `probe`, `soft_targets`, `cam`, `embedding` and `sweep` are mathematics on arrays
(jax and numpy). `opened` reads a run, `measures` and `pictures` apply the mathematics to it, and the command
`mixjax analyse` writes the results. `explain` is of one image: where the network finds its class, and the nearest
labelled images (`neighbours`). `merge` makes one network of several runs, and `judge` evaluates it as training
does. Training imports none of it.
"""
