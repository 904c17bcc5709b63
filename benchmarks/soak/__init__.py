"""A server under all kinds of clients for a long time: ``python -m benchmarks.soak``."""
