"""From classifiers of one's own, as ONNX files, to a bundle: read, wrapped, measured, the best kept. Needs no torch."""
