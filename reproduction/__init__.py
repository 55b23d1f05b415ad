"""The claims of the papers, tested on public data; see docs/results.md."""
