"""What the papers measure besides accuracy: pure functions, and the reading of a finished run.

`interpolation`, `spectrum`, `probe`, `soft_targets`, `cam`, `embedding` and `sweep` are mathematics on arrays
(jax and numpy). `opened` reads a run, `measures` and `pictures` put the two together, and the command
`mixjax analyse` writes what they find. Training imports none of it.
"""
