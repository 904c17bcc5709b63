from benchmarks.gpu import PAIR_SIZES, SIZES, measure_pairs, measure_runs
from benchmarks.gpu_tables import render
from model.bundle import PRETRAINED_DIR, read_bundle


def test_every_subnetwork_and_size_is_run_beside_the_bare_network() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")
    found = measure_runs(bundle, "cpu", runs=1)

    cells = {(cell["subnetwork"], cell["size"]): cell for cell in found["runs"]}
    assert set(cells) == {(s.name, size) for s in bundle.manifest.subnetworks for size in SIZES}
    for cell in cells.values():
        assert (
            min(
                cell["p50_ms"],
                cell["plain_ms"],
                cell["bare_ms"],
                cell["operations_ms"],
                cell["bytes_ms"],
            )
            > 0
        )


def test_every_subnetwork_is_run_beside_the_full_one() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")

    cells = measure_pairs(bundle, "cpu", runs=1)

    *others, full = (s.name for s in bundle.manifest.subnetworks)
    assert [(cell["pair"], cell["size"]) for cell in cells] == [
        (f"{name} and {full}", size) for name in others for size in PAIR_SIZES
    ]
    assert all(min(cell["apart_ms"], cell["together_ms"]) > 0 for cell in cells)


def test_the_tables_have_a_line_for_each_figure() -> None:
    point = {
        "system": "anytime",
        "rate": 100,
        "in_time": 0.99,
        "accuracy": 0.861,
        "correct_in_time": 0.852,
        "answered_ms": {"p50": 1.25, "p99": 2.5},
    }
    cell = {
        "subnetwork": "full",
        "size": 4,
        "p50_ms": 1.5,
        "p99_ms": 2.0,
        "plain_ms": 3.0,
        "bare_ms": 1.2,
        "operations_ms": 0.01,
        "bytes_ms": 0.005,
    }
    section = render(
        {
            "conditions": {
                "device": "a GPU",
                "machine": "a machine",
                "system": "a system",
                "versions": {"onnxruntime": "1"},
                "commit": "abc",
                "bundle": "cifar10",
                "digest": "123",
            },
            "precision": "float16",
            "runs": [cell],
            "clock_after": "1980 MHz",
            "session_mib": {"column-1": 20.0, "full": 62.0},
            "pairs": [
                {"pair": "column-1 and full", "size": 8, "apart_ms": 2.0, "together_ms": 1.5}
            ],
            "n": 200,
            "matrix_per_s": 4e14,
            "bytes_per_s": 4e12,
            "memory_mib": 900.0,
            "deadlines": [
                {"deadline_ms": 2.0} | point,
                {"deadline_ms": 5.0} | point | {"in_time": 1.0},
                {"deadline_ms": 5.0} | point | {"rate": 400, "in_time": 0.5},
            ],
            "choices": [point, point | {"system": "static:full", "rate": 300}],
            "training": {
                "network": "training a network",
                "n": 960,
                "rates": {"trainer": [90.0, 94.0], "bare loop": [100.0, 100.0]},
                "floor": 400.0,
            },
            "left_out": ["static:full at 1000/s, 5 ms"],
        }
    )

    assert "`cifar10` (123, float16)" in section
    assert "column-1 20, full 62 MiB. After the runs: 1980 MHz." in section
    assert "| full | 4 | 1.500 / 2.000 | 2667 | 3.000 | 1.200 | 1.25 | 0.0100 | 0.0050 |" in section
    assert "trainer: 92 images/s (90 to 94; 2 rounds of 960 images), 0.92 of the bare" in section
    assert "floor: 400 images/s; the bare loop reaches 0.25 of it" in section
    assert "| column-1 and full | 8 | 2.000 | 1.500 | 0.75 |" in section
    assert "| 2 ms | 100 | 99.0 % | 86.1 % | 1.25 / 2.50 |" in section
    assert "| anytime | 85.2 | – |" in section
    assert "| static:full | – | 85.2 |" in section
    assert (
        "In time for 99.9 % or more: "
        "2 ms: not held, 0 % of the most that was answered in time, 99/s; "
        "5 ms: held up to 100/s, 50.0 % of the most that was answered in time, 200/s." in section
    )
    assert section.endswith("\n\nLeft out: static:full at 1000/s, 5 ms.\n")
