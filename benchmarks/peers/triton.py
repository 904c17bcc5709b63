"""Triton, as PyTriton brings it: its own HTTP and dynamic batching in front of a Python function."""

import os
import signal
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.graph import Graph, read_options


def main() -> None:
    """Serve until a signal."""
    options = read_options()
    # Triton runs the function in a Python that it loads itself; it must be this one.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    graph = Graph(options.graph)

    @batch
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"class_id": graph.run(images).astype(np.int64)[:, np.newaxis]}

    @batch
    def classify(jpeg: np.ndarray) -> dict[str, np.ndarray]:
        classes = [[graph.classify(content)] for content in jpeg[:, 0]]
        return {"class_id": np.array(classes, np.int64)}

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=options.port,
        grpc_address="127.0.0.1",
        grpc_port=options.port + 1,
        allow_metrics=False,
        log_verbose=0,
    )
    models = {  # the second takes what this project's server takes as pixels
        "fractalnet": (classify, Tensor(name="jpeg", dtype=np.bytes_, shape=(1,))),
        "cifar10": (run, Tensor(name="images", dtype=np.uint8, shape=(-1, -1, 3))),
    }
    with Triton(config=config) as triton:
        for name, (function, takes) in models.items():
            triton.bind(
                model_name=name,
                infer_func=function,
                inputs=[takes],
                outputs=[Tensor(name="class_id", dtype=np.int64, shape=(1,))],
                config=ModelConfig(max_batch_size=16, batcher=DynamicBatcher()),
                strict=False,
            )
        triton.run()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
