"""Batches of the training steps: the choice of examples, their crops, and their transfer to the devices."""
