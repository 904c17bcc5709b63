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
        "offered": 40,
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


def test_the_free_choice_is_compared_with_the_best_subnetwork_at_each_rate(tmp_path: Path) -> None:
    points = [point("anytime", 100, 0.9), point("anytime", 100, 0.8)]
    points += [point("column-1", 100, 0.5), point("column-1", 100, 0.5)]
    points += [point("full", 100, 0.9), point("full", 100, 0.7)]

    write_tables({"conditions": CONDITIONS, "sweep": points}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| 100 | 85.0 % | 80.0 % | full | +5.0 ± 5.0 (2) |" in text


def test_two_cores_are_compared_with_the_bare_handler_on_one(tmp_path: Path) -> None:
    cells = [("bare handler", "one core", 100.0), ("/classify", "two cores", 150.0)]
    points = [
        {"server": server, "cores": cores, "connections": 32, "round": number, "per_s": per_s}
        for server, cores, per_s in cells
        for number in range(2)
    ]

    write_tables({"conditions": CONDITIONS, "two_cores": points}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| /classify | two cores | 32 | 150 (150–150) | 1.5 (1.5–1.5) |" in text


def test_no_accuracy_is_told_of_few_answers(tmp_path: Path) -> None:
    points = [point("anytime", 100, 0.9), point("anytime", 100, 0.7), point("anytime", 900, 0.9)]
    points += [each | {"system": "full"} for each in points]

    write_tables({"conditions": CONDITIONS, "sweep": points}, tmp_path)

    accuracies = (tmp_path / "results.md").read_text().split("Accuracy of the answers")[1]
    assert "| anytime | 80.0 | – |" in accuracies.split("Correct in time")[0]


def test_another_server_stands_beside_what_ours_did_at_its_rates(tmp_path: Path) -> None:
    peers = [
        point("bare handler: full", rate, correct) | {"ours": point("anytime", rate, 0.9)}
        for rate, correct in ((100, 0.88), (900, 0.1))
    ]

    write_tables({"conditions": CONDITIONS, "peers": peers}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| bare handler: full | 88.0 (90.0) | 10.0 (90.0) |" in text


def test_ours_is_compared_with_the_bare_handler(tmp_path: Path) -> None:
    floor = {
        "p50_ms": {"static:column-1": [1.2, 1.5], "bare handler: column-1": [1.0, 1.0]},
        "per_s": {"static:column-1": [900.0, 900.0], "bare handler: column-1": [1000.0, 1000.0]},
    }

    write_tables({"conditions": CONDITIONS, "floor": floor}, tmp_path)

    text = (tmp_path / "results.md").read_text()
    assert "| 1.35 (1.20–1.50) | 1.00 (1.00–1.00) | 1.35 (1.2–1.5) | 2 |" in text
    assert "| 900 (900–900) | 1000 (1000–1000) | 0.9 (0.9–0.9) | 2 |" in text


def test_both_values_of_on_miss_are_compared_with_the_peak_beside_them(tmp_path: Path) -> None:
    in_time = {"peak": (0.8, 0.6), "answer": (0.4, 0.3), "refuse": (0.5, 0.3)}
    points = [
        point("anytime", 2000, 0.8)
        | {"mode": mode, "connections": 64, "offered": 10, "in_time": share, "round": number}
        | {"times": 2, "outcomes": {"in_time": 3, "late": 1}}
        for mode, shares in in_time.items()
        for number, share in enumerate(shares)
    ]

    modes = {"turn_s": 0.5, "peak_per_s": 1000.0, "points": points}
    write_modes({"conditions": CONDITIONS, "modes": modes}, tmp_path)

    written = (tmp_path / "results.md").read_text()
    answer = "**0.50** ± 0.00 of the peak; 35.0 % in time, 25.0 % late, latest 3 ms"
    assert f"| 64 | 2 × (2000) | {answer} |" in written
    assert "| +5.0 ± 5.0 (2) |" in written
