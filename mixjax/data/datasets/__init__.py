"""Data sets: images and labels from a folder, from tfds, from this package, or synthetic.

`mixjax.data.labelled` chooses the labelled examples; `mixjax.data.pixels` decodes files into pixels.
"""
