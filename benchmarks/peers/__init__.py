"""Other servers on the same ONNX files, each set up as its documentation recommends for one CPU core.

Each module is a server of its own process: ``python -m benchmarks.peers.<name> --graph FILE --port PORT``. It runs in
a virtual environment made from ``requirements/<name>.txt``, and imports nothing of this project but ``graph``.
"""
