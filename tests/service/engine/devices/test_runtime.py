from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose

from model.bundle import Bundle
from service.engine.devices import cpu, runtime, tensorrt
from service.engine.devices.cpu import Split, choose_split, open_cpu_devices, possible_splits
from service.engine.devices.device import Device, RuntimeUnavailable
from service.engine.devices.runtime import (
    DeviceChoice,
    Wanted,
    measure_run_latency,
    open_devices,
    padded,
    warm_up_batch_sizes,
)


@pytest.fixture(scope="module")
def device(bundle: Bundle) -> Device:
    return open_cpu_devices(bundle, Split(1, 1))[0]


def wanted(device: DeviceChoice, engine_dir: Path, *, devices: int = 0, cores: int = 1) -> Wanted:
    return Wanted(device, devices, 0, cores, engine_dir)


def images(n: int, size: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(n)
    for _ in range(n):
        yield rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_every_subnetwork_of_the_bundle_runs(device: Device, bundle: Bundle) -> None:
    manifest = bundle.manifest
    batch = list(images(3, manifest.preprocessing.size))

    for subnetwork in manifest.subnetworks:
        probabilities = device.run(subnetwork.name, batch)
        assert probabilities.shape == (3, len(manifest.labels))
        assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_an_image_gets_the_same_answer_in_any_company(device: Device, bundle: Bundle) -> None:
    batch = list(images(4, bundle.manifest.preprocessing.size))

    for subnetwork in bundle.manifest.subnetworks:
        together = device.run(subnetwork.name, batch)
        alone = np.concatenate([device.run(subnetwork.name, [image]) for image in batch])
        assert_allclose(together, alone, atol=1e-4)  # float32, another order of summation


@pytest.mark.parametrize(
    ("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_warm_up_covers_the_powers_of_two_and_the_largest_batch(
    max_batch: int, sizes: list[int]
) -> None:
    assert warm_up_batch_sizes(max_batch) == sizes


@pytest.mark.anyio
async def test_the_profile_has_the_median_of_every_cell_but_for_its_first_run() -> None:
    runs: dict[tuple[str, int], Iterator[float]] = {}

    async def time_run(subnetwork: str, size: int) -> float:
        return next(
            runs.setdefault((subnetwork, size), iter([99.0, 1.0, 1.0, 7.0, 7.0, 5.0 * size]))
        )

    profile = await measure_run_latency(time_run, ["column-1", "full"], [1, 2], budget_s=1000)

    assert profile == {name: {1: 5.0, 2: 7.0} for name in ("column-1", "full")}


@pytest.mark.anyio
async def test_a_machine_that_is_slow_for_a_while_slows_no_subnetwork_alone() -> None:
    runs = count(1)

    async def time_run(subnetwork: str, size: int) -> float:
        slow = 13 <= next(runs) <= 17  # as many as one of the four has
        return 1.0 + 100 * slow

    profile = await measure_run_latency(time_run, ["column-1", "full"], [1, 2], budget_s=10_000)

    assert profile == {name: {1: 1.0, 2: 1.0} for name in ("column-1", "full")}


@pytest.mark.anyio
async def test_a_cell_that_overruns_its_share_is_measured_once() -> None:
    runs = iter([1.0, 2.0])

    async def time_run(subnetwork: str, size: int) -> float:
        return next(runs)

    assert await measure_run_latency(time_run, ["full"], [1], budget_s=0.5) == {"full": {1: 2.0}}


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="ONNX Runtime has CUDA here"
)
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_cannot_be_used_is_no_silent_cpu(
    bundle: Bundle, device: DeviceChoice, tmp_path: Path
) -> None:
    with pytest.raises(
        RuntimeUnavailable, match=f"is {device}, but .*no CUDA; install onnxruntime-gpu"
    ):
        open_devices(bundle, wanted(device, tmp_path), batch_sizes=[1], warn=print)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="ONNX Runtime has CUDA here"
)
def test_where_onnx_runtime_has_no_gpu_the_cpu_is_no_surprise(
    bundle: Bundle, tmp_path: Path
) -> None:
    warnings: list[str] = []

    devices = open_devices(bundle, wanted("auto", tmp_path), batch_sizes=[1], warn=warnings.append)

    assert [each.name for each in devices] == ["cpu:0"]
    assert not warnings


def test_tensorrt_keeps_engines_for_a_bundle_and_its_batch_sizes(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(runtime, "choose_gpus", lambda devices: range(devices))
    monkeypatch.setattr(tensorrt, "load_cuda", lambda: None)
    monkeypatch.setattr(
        tensorrt, "open_on_gpu", lambda path, providers: asked.append(providers[tensorrt.TENSORRT])
    )

    for sizes in ([1, 2], [1, 2, 4]):
        opened = open_devices(
            bundle,
            wanted("tensorrt", tmp_path, devices=2),
            batch_sizes=sizes,
            warn=pytest.fail,
        )
        assert [each.name for each in opened] == ["tensorrt:0", "tensorrt:1"]

    side = bundle.manifest.preprocessing.size
    few, many = asked[0], asked[-1]
    assert few["trt_engine_cache_path"] != many["trt_engine_cache_path"]
    assert many["trt_profile_max_shapes"] == f"images:4x{side}x{side}x3"
    assert {each["device_id"] for each in asked} == {"0", "1"}
    # Of its Python options TensorRT takes these words alone for switches.
    switches = {value for name, value in many.items() if name.endswith("_enable")}
    assert switches <= {"True", "False"}


def test_devices_of_one_thread_run_the_same_sessions(bundle: Bundle) -> None:
    first, second = open_cpu_devices(bundle, Split(devices=2, threads=1))
    batch = list(images(2, bundle.manifest.preprocessing.size))

    for name in first.names:
        assert_allclose(first.run(name, batch), second.run(name, batch))
    first.keep({"wide-full": "wide-full"})
    first.close()

    assert second.run("narrow-column-1", batch).shape[0] == 2


@pytest.mark.parametrize(
    ("cores", "devices", "threads", "splits"),
    [
        (1, 0, 0, [(1, 1)]),
        (2, 0, 0, [(2, 1), (1, 2)]),
        (12, 0, 0, [(12, 1), (6, 2), (3, 4)]),
        (12, 0, 3, [(4, 3)]),
        (12, 2, 0, [(2, 4)]),
        (1, 2, 3, [(2, 3)]),
    ],
)
def test_cores_are_split_between_devices_and_threads_in_every_way_that_is_left_open(
    cores: int, devices: int, threads: int, splits: list[tuple[int, int]]
) -> None:
    found = possible_splits(cores, devices=devices, threads=threads)

    assert found == [Split(*each) for each in splits]


@pytest.mark.parametrize(("two_threads_s", "split"), [(0.6, Split(1, 2)), (0.8, Split(2, 1))])
def test_runs_take_more_threads_where_these_are_well_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, two_threads_s: float, split: Split
) -> None:
    now = 0.0

    def open_graph(path: Path, *, threads: int, shares_threads: bool) -> int:
        return threads

    def run(threads: int, batch: object) -> None:
        nonlocal now
        now += 1.0 if threads == 1 else two_threads_s

    monkeypatch.setattr(cpu, "open_graph", open_graph)
    monkeypatch.setattr(cpu, "_run", run)

    assert choose_split(bundle, possible_splits(2), clock=lambda: now) == split


def test_a_padded_batch_costs_what_the_next_size_does() -> None:
    profile = padded({"full": {1: 1.0, 2: 1.5, 4: 2.0, 6: 3.0}})

    assert profile == {"full": {1: 1.0, 2: 1.5, 3: 2.0, 4: 2.0, 5: 3.0, 6: 3.0}}
