"""Data sets: which images and labels there are, from a folder, tfds, the package itself, or made up.

What is labelled of them is `mixjax.data.labelled`; how a file becomes pixels is `mixjax.data.pixels`.
"""
