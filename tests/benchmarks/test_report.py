from pathlib import Path
from typing import Any

from benchmarks.serve.report import write_modes, write_tables

CONDITIONS = {
    "machine": "a machine",
    "system": "Linux",
    "versions": {"onnxruntime": "1"},
    "commit": "abc",
    "bundle": "digits",
    "digest": "0123",
    "started": "today",
    "seconds": 4.0,
    "deadline_ms": 25.0,
}


def point(system: str, rate: float, correct: float) -> dict[str, Any]:
    return {
        "system": system,
        "rate": rate,
        "seed": 0,
        "in_time": 1.0,
        "accuracy": correct,
        "correct_in_time": correct,
        "answered_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0},
        "memory_mib": 100,
    }


def test_a_second_report_takes_the_place_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "results.md").write_text("# Results\n\n## Accuracy\n\nGood.\n")
    found = {"conditions": CONDITIONS, "capacity_per_s": 1000.0}

    write_tables(found, tmp_path)
    once = (tmp_path / "results.md").read_text()
    write_tables(found, tmp_path)

    assert (tmp_path / "results.md").read_text() == once
    assert once.startswith("# Results\n\n## Accuracy\n\nGood.\n")


def test_ours_is_compared_with_the_best_of_the_others_at_each_rate(tmp_path: Path) -> None:
    own = [point("anytime", 100, 0.9), point("static:full", 100, 0.85)]
    own += [point("anytime", 900, 0.8)]
    peers = [point("bare handler: full", 100, 0.88), point("bare handler: full", 900, 0.1)]

    write_tables({"conditions": CONDITIONS, "sweep": own, "peers": peers}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| 100 | 90.0 % (90.0 %–90.0 %) | 88.0 % | bare handler: full | +2.0 |" in text
    assert "| 900 | 80.0 % (80.0 %–80.0 %) | 10.0 % | bare handler: full | +70.0 |" in text


def test_ours_is_compared_with_the_bare_handler(tmp_path: Path) -> None:
    floor = {
        "p50_ms": {"static:column-1": [1.2, 1.5], "bare handler: column-1": [1.0, 1.0]},
        "per_s": {"static:column-1": [900.0, 900.0], "bare handler: column-1": [1000.0, 1000.0]},
    }

    write_tables({"conditions": CONDITIONS, "floor": floor}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| 1.35 (1.20–1.50) | 1.00 (1.00–1.00) | 1.35 (1.2–1.5) | 2 |" in text
    assert "| 900 (900–900) | 1000 (1000–1000) | 0.9 (0.9–0.9) | 2 |" in text


def test_the_values_of_on_miss_stand_side_by_side_with_the_difference_of_their_pairs(
    tmp_path: Path,
) -> None:
    in_time = {"answer": (0.8, 0.6), "refuse": (0.9, 0.9)}
    points = [
        point("anytime", 2000, 0.8)
        | {"on_miss": mode, "connections": 64, "offered": 10, "in_time": share, "pair": pair}
        for mode, shares in in_time.items()
        for pair, share in enumerate(shares)
    ]

    modes = {"turn_s": 0.5, "points": points}
    write_modes({"conditions": CONDITIONS, "modes": modes}, tmp_path)

    written = (tmp_path / "results.md").read_text()
    answer = "70.0 % (60.0 %–80.0 %), n = 20; latest 3 ms"
    refuse = "90.0 % (90.0 %–90.0 %), n = 20; latest 3 ms"
    assert "0.5 s each" in written
    assert f"| 64 | 2000 | {answer} | {refuse} | +20.0 ± 10.0 (2) |" in written
