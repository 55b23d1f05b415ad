"""Few labels: which examples of a data set are labelled, validated on and tested on."""
