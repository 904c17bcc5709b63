"""The real server under a load, alone and beside others: ``python -m benchmarks.serve``."""
