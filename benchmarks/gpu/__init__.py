"""The server on a GPU, against what the hardware could do: ``python -m benchmarks.gpu``."""
