"""TensorRT: sessions whose graphs it compiles, one engine a subnetwork for all batch sizes.

An engine is a few launches, so that none is captured. What TensorRT cannot run is left to CUDA.
"""

import importlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from model.bundle import Bundle
from service.engine.devices.cuda import (
    CUDA,
    CUDA_OPTIONS,
    CapturedRuns,
    WaitingCopies,
    load_cuda,
    open_on_gpu,
    warn_of,
)
from service.engine.devices.device import Device, RunImages, RuntimeUnavailable, Warn, graphs

TENSORRT = "TensorrtExecutionProvider"


def open_tensorrt_device(
    bundle: Bundle, gpu: int, *, batch_sizes: Sequence[int], engine_dir: Path, warn: Warn
) -> Device:
    """Create the sessions on one GPU.

    Args:
        bundle: the verified bundle.
        gpu: its index.
        batch_sizes: that will be warmed up, ascending; no batch is larger than the last.
        engine_dir: where the engines are kept; to build them takes minutes.
        warn: is told what will be slower.

    Raises:
        RuntimeUnavailable: the GPU cannot be used so, or a graph does not load.
    """
    load_cuda()
    with suppress(ImportError):  # then they are the system's
        importlib.import_module("tensorrt")  # loads its libraries
    # TensorRT knows an engine by its graph and not by its weights: those of another bundle are kept apart. So are those
    # for other batch sizes, which it would build anew in place of these.
    largest = batch_sizes[-1]
    try:
        engines = engine_dir.expanduser() / f"{bundle.digest[:12]}-{largest}"
        engines.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise RuntimeUnavailable(
            f"no engines can be kept in ANYTIME_ENGINE_DIR: {error}"
        ) from error
    options = _options(bundle, gpu, engines, largest=largest)
    runs: dict[str, RunImages] = {
        name: CapturedRuns(
            open_on_gpu(path, {TENSORRT: options, CUDA: CUDA_OPTIONS | {"device_id": str(gpu)}}),
            batch_sizes,
            device_type="cuda",
            gpu=gpu,
            copies=WaitingCopies(),
            warn=partial(warn_of, warn, name),
        )
        for name, path in graphs(bundle)
    }
    return Device(f"tensorrt:{gpu}", runs, gpu=gpu)


def _options(bundle: Bundle, gpu: int, engines: Path, *, largest: int) -> dict[str, str]:
    """Return options for engines of batch sizes 1 to ``largest`` that are built once."""
    side = bundle.manifest.preprocessing.size

    def images(size: int) -> str:
        return f"images:{size}x{side}x{side}x3"

    return {
        "device_id": str(gpu),
        "trt_engine_cache_enable": "True",  # it takes no "1"
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
        "trt_profile_min_shapes": images(1),
        "trt_profile_opt_shapes": images(1),
        "trt_profile_max_shapes": images(largest),
        "trt_fp16_enable": str(bundle.manifest.precision == "float16"),
    }
