"""Speed and memory of the layers against their peers: `python -m benchmarks --help`."""
