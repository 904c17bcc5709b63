"""The soak: every kind of client against the real server, and the two sides of the ledger."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.soak.clients import KINDS
from benchmarks.soak.ledger import agrees, slope
from tests.server import ROOT

NONE = dict.fromkeys(
    ("in_time", "late", "refused", "expired", "impossible", "invalid", "failed", "abandoned"), 0
)


def test_a_ledger_agrees_if_only_those_who_left_are_unseen() -> None:
    seen = NONE | {"in_time": 5, "refused": 1}

    assert agrees(seen, seen, 0)
    assert agrees(seen, seen | {"in_time": 6, "abandoned": 1}, 2)
    assert not agrees(seen, seen | {"in_time": 6, "abandoned": 1}, 1)
    assert not agrees(seen, seen | {"in_time": 4, "refused": 2}, 9)


def test_the_slope_is_that_of_the_memory() -> None:
    at = range(60)
    grown, error = slope(at, [100 + each / 36 for each in at]) or (0.0, 1.0)

    assert 98 < grown < 100  # 100 MiB an hour, of 101 MiB
    assert error < 0.01
    assert slope(at[:2], [100.0, 101.0]) is None


def test_a_short_soak_accounts_for_every_request(tmp_path: Path) -> None:
    soak = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "benchmarks.soak",
                "--phase",
                "0.1:2",
                "--large",
                "2",
                "--side",
                "32",
            ),
            *("--holds", "1000"),
            *("--log", tmp_path / "log", "--deadline-ms", "60000"),
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )

    report = json.loads(soak.stdout)
    (phase,) = report["phases"]
    assert phase["ledger"].keys() == {each.__name__ for each in KINDS}
    assert phase["seen"]["in_time"] > 0
    assert phase["seen"]["failed"] == 0
    assert phase["anonymous_by_process"].keys() >= {"service", "engine", "front"}
    assert report["burst"]["small_a_second_later"]["in_time"]
