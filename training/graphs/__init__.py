"""A subnetwork as an ONNX graph: its weights, its precision, and what it is worth."""
