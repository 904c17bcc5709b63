"""The Open Inference Protocol (KServe's version 2, as Triton speaks it) in front of the same engine, over HTTP and gRPC."""
