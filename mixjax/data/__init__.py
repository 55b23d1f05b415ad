"""Data sets, their labelled examples, and the batches of each step."""
