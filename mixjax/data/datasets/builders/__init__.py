"""Builders of data sets that TensorFlow Datasets does not have or can no longer fetch; one file for each."""
