"""Sessions of ONNX Runtime: one for each graph, all of a process on one pool of threads unless a device has its own."""

import os
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

# It moves the rounding to integers to before a pooling in float32, where pooling takes ten times as long in integers.
LEFT_OUT = ["QDQPropagationTransformer"]


def open_session(
    path: str | os.PathLike[str],
    *,
    threads: int,
    shares_threads: bool = True,
    gpu: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        path: of the ONNX file.
        threads: CPU threads of a run, the caller's included.
        shares_threads: take them from the one pool of the process, whose size the first session sets; else the session has
            its own.
        gpu: providers that come before the CPU's, with their options; ``get_providers`` of the session tells whether
            they are used.

    Raises:
        Exception: the graph does not load; ONNX Runtime has no common base of its errors.
    """
    options = ort.SessionOptions()
    if shares_threads:
        with suppress(Fail):  # the pool is there
            ort.set_global_thread_pool_sizes(threads, 1)
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; its warnings are about nodes left on the CPU
    providers: list[Any] = [(name, dict(own)) for name, own in gpu.items()]
    providers.append("CPUExecutionProvider")
    # Its own fallback to the CPU only prints; here the caller decides.
    return ort.InferenceSession(
        path, options, providers=providers, enable_fallback=0, disabled_optimizers=LEFT_OUT
    )
