"""Data: which images there are, which are labelled, and which of them a step sees."""
