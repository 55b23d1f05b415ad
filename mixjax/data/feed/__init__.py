"""From arrays to batches: which examples a step sees, their crops, and how they reach the devices."""
