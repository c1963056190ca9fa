"""Every number in the README: `python -m benchmarks.NAME` writes `benchmarks/results/NAME.json`."""
