"""Builders of the data sets that TensorFlow Datasets has not, or cannot fetch any more; one file for each."""
