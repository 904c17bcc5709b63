import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import measure as gpu
from benchmarks.gpu.runs import (
    PAIR_SIZES,
    SAME_ANSWER,
    SIZES,
    compare_answers,
    measure_pairs,
    measure_runs,
)
from benchmarks.gpu.tables import render
from benchmarks.gpu.untrained import untrained_bundle
from model.bundle import PRETRAINED_DIR, read_bundle
from service.engine.devices.runtime import DeviceChoice
from training.config import RECIPES

NO_GPU = "needs a GPU"


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
        ),
    ],
)
def test_every_subnetwork_answers_as_on_the_cpu(device: DeviceChoice) -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")

    gaps = compare_answers(bundle, device, warn=pytest.fail)

    assert list(gaps) == [s.name for s in bundle.manifest.subnetworks]
    assert max(gaps.values()) <= SAME_ANSWER


def test_every_subnetwork_and_size_is_run_beside_the_bare_network() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")
    found = measure_runs(bundle, "cpu", runs=1, warn=pytest.fail)

    cells = {(cell["subnetwork"], cell["size"]): cell for cell in found["cells"]}
    assert set(cells) == {(s.name, size) for s in bundle.manifest.subnetworks for size in SIZES}
    for cell in cells.values():
        assert (
            min(
                cell["p50_ms"],
                cell["plain_ms"],
                cell["nhwc_ms"],
                cell["bare_ms"],
                cell["operations_ms"],
                cell["bytes_ms"],
            )
            > 0
        )


def test_an_untrained_network_is_a_bundle_in_half_precision(tmp_path: Path) -> None:
    tiny = RECIPES["tiny"]
    architecture = replace(tiny.architecture, columns=2, divisors=())
    bundle = untrained_bundle(replace(tiny, architecture=architecture), tmp_path / "untrained")

    assert bundle.manifest.precision == "float16"
    gaps = compare_answers(bundle, "cpu", warn=pytest.fail)
    assert {"column-1", "full"} <= gaps.keys()


def test_every_subnetwork_is_run_beside_the_full_one() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")

    cells = measure_pairs(bundle, "cpu", runs=1, warn=pytest.fail)

    *others, full = (s.name for s in bundle.manifest.subnetworks)
    assert [(cell["pair"], cell["size"]) for cell in cells] == [
        (f"{name} and {full}", size) for name in others for size in PAIR_SIZES
    ]
    assert all(min(cell["apart_ms"], cell["together_ms"]) > 0 for cell in cells)


CONDITIONS = {
    "device": "a GPU",
    "machine": "a machine",
    "system": "a system",
    "versions": {"onnxruntime": "1"},
    "commit": "abc",
    "bundle": "cifar10",
    "digest": "123",
}
POINT = {
    "system": "anytime",
    "rate": 100,
    "in_time": 0.99,
    "accuracy": 0.861,
    "correct_in_time": 0.852,
    "answered_ms": {"p50": 1.25, "p99": 2.5},
}
CELL = {
    "subnetwork": "full",
    "size": 4,
    "p50_ms": 1.5,
    "p99_ms": 2.0,
    "plain_ms": 3.0,
    "nhwc_ms": 2.5,
    "bare_ms": 1.2,
    "operations_ms": 0.01,
    "bytes_ms": 0.005,
}
NOTHING = {"conditions": CONDITIONS, "warnings": [], "failed": [], "left_out": []}


def test_the_tables_have_a_line_for_each_figure() -> None:
    unanswered = {
        "rate": 900,
        "in_time": 0.0,
        "accuracy": None,
        "answered_ms": None,
    }
    section = render(
        NOTHING
        | {
            "answers": {"column-1": 0.00021, "full": 0.0042},
            "runs": {
                "precision": "float16",
                "cells": [CELL],
                "clock_after": "1980 MHz",
                "answers": {"full": 0.031},
                "session_mib": {"column-1": 20.0, "full": 62.0},
                "n": 200,
                "matrix_per_s": 4e14,
                "bytes_per_s": 4e12,
            },
            "pairs": [
                {"pair": "column-1 and full", "size": 8, "apart_ms": 2.0, "together_ms": 1.5}
            ],
            "training": {
                "network": "training a network",
                "n": 960,
                "rates": {"trainer": [90.0, 94.0], "bare loop": [100.0, 100.0]},
                "floor": 400.0,
            },
            "serving": {
                "memory_mib": 900.0,
                "alone": [{"deadline_ms": 2.0} | POINT | {"system": "static:full"}],
                "deadlines": [
                    {"deadline_ms": 2.0} | POINT,
                    {"deadline_ms": 5.0} | POINT | {"in_time": 1.0},
                    {"deadline_ms": 5.0} | POINT | {"rate": 400, "in_time": 0.5},
                    {"deadline_ms": 5.0} | POINT | unanswered,
                ],
                "choices": [POINT, POINT | {"system": "static:full", "rate": 300}],
            },
            "left_out": ["static:full at 1000/s, 5 ms"],
            "warnings": ["full: no CUDA graph of batch size 2"],
        }
    )

    assert "`cifar10` (123)." in section
    assert "in full and padded batches: column-1 0.0002, full 0.0042." in section
    assert "column-1 20, full 62 MiB." in section
    assert "After the runs: 1980 MHz." in section
    assert "in full and padded batches: full 0.0310." in section
    assert (
        "| full | 4 | 1.500 / 2.000 | 2667 | 3.000 | 2.500 | 1.200 | 1.25 | 0.0100 | 0.0050 |"
        in section
    )
    assert "trainer: 92 images/s (90 to 94; 2 rounds of 960 images), 0.92 of the bare" in section
    assert "floor: 400 images/s; the bare loop reaches 0.25 of it" in section
    assert "| column-1 and full | 8 | 2.000 | 1.500 | 0.75 |" in section
    assert "| static:full | 2 ms | 99.0 % | 86.1 % | 1.25 / 2.50 |" in section
    assert "| 2 ms | 100 | 99.0 % | 86.1 % | 1.25 / 2.50 |" in section
    assert "| 5 ms | 900 | 0.0 % | – | – |" in section
    assert "| anytime | 85.2 | – |" in section
    assert "| static:full | – | 85.2 |" in section
    assert (
        "In time for 99.9 % or more: "
        "2 ms: not held, 0 % of the most that was answered in time, 99/s; "
        "5 ms: held up to 100/s, 50.0 % of the most that was answered in time, 200/s." in section
    )
    assert "\n\nWarnings: full: no CUDA graph of batch size 2.\n" in section
    assert section.endswith("\n\nLeft out: static:full at 1000/s, 5 ms.\n")


def test_a_part_that_failed_is_named_beside_those_that_were_measured() -> None:
    section = render(
        NOTHING | {"answers": {"full": 0.001}, "failed": ["runs: OutOfMemoryError: 3 GiB"]}
    )

    assert section.endswith("batches: full 0.0010.\n\nFailed: runs: OutOfMemoryError: 3 GiB.\n")


def test_a_failing_part_costs_no_other_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("3 GiB")

    def in_this_process(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return work(*arguments, **named)

    monkeypatch.setattr(gpu, "_in_own_process", in_this_process)
    for part in ("measure_runs", "measure_pairs", "measure_training", "_measure_untrained"):
        monkeypatch.setattr(gpu, part, out_of_memory)
    options = argparse.Namespace(
        device="cpu", runs=1, recipe="tiny", out=tmp_path, images=tmp_path, seconds=1.0, rates=[10]
    )

    found = gpu.measure(bundle, options, end_at=inf, serving_end_at=0.0)

    assert found["failed"] == [
        f"{part}: OutOfMemoryError: 3 GiB" for part in ("runs", "wide runs", "pairs", "training")
    ]
    assert found["answers"]["wide-full"] <= SAME_ANSWER
    assert len(found["left_out"]) == len(bundle.manifest.subnetworks) + 1
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    assert "Failed: runs: OutOfMemoryError: 3 GiB;" in (tmp_path / "gpu.md").read_text()


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")
    options = argparse.Namespace(device="cpu", runs=1, recipe="tiny", out=tmp_path)

    found = gpu.measure(bundle, options, end_at=0.0, serving_end_at=0.0)

    assert found["left_out"] == ["answers", "runs", "serving", "wide runs", "pairs", "training"]
    assert "Left out: answers" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_crashes_is_a_failure_like_others() -> None:
    with pytest.raises(BrokenProcessPool):
        gpu._in_own_process(die)


def die(*_: object, **__: object) -> None:
    """What a fault of the driver does."""
    os.abort()
