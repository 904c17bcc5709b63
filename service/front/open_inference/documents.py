"""What the protocol says of the server and of its model, the bundle: metadata, configuration, statistics, index. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric

from model.manifest import Manifest
from service.front.open_inference.outputs import CLASS_ID, LABEL, PROBABILITIES
from service.front.open_inference.tensors import FILES, MAX_IMAGES, PIXELS
from service.observability.telemetry import NO_SUBNETWORK

PLATFORM = "onnxruntime_onnx"
# Statistics are there and not named: NVIDIA's load tool would ask for them, and ends with an error where a version is no number.
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
]

Document = dict[str, Any]


def server_metadata(version: str) -> Document:
    """Return what ``/v2`` says."""
    return {"name": "anytime", "version": version, "extensions": EXTENSIONS}


def model_metadata(name: str, manifest: Manifest, versions: Iterable[str]) -> Document:
    """Return the inputs and outputs of a bundle, one of a model's versions; -1 is the number of images."""
    side, classes = manifest.preprocessing.size, len(manifest.labels)
    return {
        "name": name,
        "versions": [*versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, side, side, 3]},
            {"name": FILES, "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": CLASS_ID, "datatype": "INT64", "shape": [-1]},
        ],
    }


def model_config(name: str, manifest: Manifest) -> Document:
    """Return a bundle's configuration in Triton's words: dimensions are without that of the images."""
    side, classes = manifest.preprocessing.size, len(manifest.labels)
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": MAX_IMAGES,
        "input": [
            {"name": PIXELS, "data_type": "TYPE_UINT8", "format": "FORMAT_NHWC", "dims": [side, side, 3], "optional": True},
            {"name": FILES, "data_type": "TYPE_STRING", "dims": [1], "optional": True},
        ],
        "output": [
            {"name": PROBABILITIES, "data_type": "TYPE_FP32", "dims": [classes]},
            {"name": LABEL, "data_type": "TYPE_STRING", "dims": []},
            {"name": CLASS_ID, "data_type": "TYPE_INT64", "dims": []},
        ],
    }  # fmt: skip


def repository_index(
    bundles: Iterable[Mapping[str, str]], *, is_ready: bool, ready_only: bool
) -> list[Document]:
    """Return the list of models, or of those that are ready: the bundles, by their names and digests."""
    if ready_only and not is_ready:
        return []
    return [
        {
            "name": each["name"],
            "version": each["digest"],
            "state": "READY" if is_ready else "UNAVAILABLE",
            "reason": "" if is_ready else "the server is stopping",
        }
        for each in bundles
    ]


def model_statistics(name: str, version: str, label: str, metrics: Iterable[Metric]) -> Document:
    """Return counts and times of the requests for a model since the server's start, in Triton's words and nanoseconds.

    What Triton calls compute_input is decoding, compute_output the reply, and success all from the arrival to the answer.

    Args:
        name, version: of the bundle.
        label: what metrics call it.
        metrics: the server's own.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for sample in (sample for metric in metrics for sample in metric.samples):
        if sample.labels.get("model") != label:
            continue
        sums[sample.name] += sample.value
        if sample.name == "anytime_requests_total" and sample.labels["subnetwork"] == NO_SUBNETWORK:
            sums["failed"] += sample.value
    answered = sums["anytime_requests_total"] - sums["failed"]
    total_s = sums["anytime_request_latency_seconds_sum"]
    decode_s, reply_s = sums["anytime_decode_seconds_sum"], sums["anytime_reply_seconds_sum"]
    queue_s = sums["anytime_queue_time_seconds_sum"] - decode_s
    run_s = total_s - queue_s - decode_s - reply_s
    times = {
        "success": total_s,
        "queue": queue_s,
        "compute_input": decode_s,
        "compute_infer": run_s,
        "compute_output": reply_s,
    }
    return {
        "name": name,
        "version": version,
        "last_inference": 0,  # not kept
        "inference_count": int(answered),
        "execution_count": int(sums["anytime_batch_size_count"]),
        "inference_stats": {
            **{each: _duration(answered, seconds) for each, seconds in times.items()},
            "fail": _duration(sums["failed"], 0),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [],
    }


def _duration(count: float, seconds: float) -> Document:
    return {"count": int(count), "ns": max(round(1e9 * seconds), 0)}
