"""The choice of labelled, validation and test examples of a data set."""
