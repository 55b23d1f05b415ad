"""The claims of the papers, tested on data that everybody has; see docs/results.md."""
