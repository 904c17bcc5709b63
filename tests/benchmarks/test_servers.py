import sys
from pathlib import Path

import pytest

from benchmarks.load.dialects import DIALECTS
from benchmarks.servers import PEER_DIALECTS, ServerFailed, System, running

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.mark.parametrize("name", PEER_DIALECTS)
def test_every_peer_has_a_dialect_a_server_and_pinned_requirements(name: str) -> None:
    requirements = (PEERS / "requirements" / f"{name}.txt").read_text().split()

    assert PEER_DIALECTS[name] in DIALECTS
    assert (PEERS / f"{name}.py").exists()
    assert all("==" in line for line in requirements)


def test_a_server_that_does_not_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    dies = System(
        "dies", "plain", (sys.executable, "-c", "print('no', 'graph'); raise SystemExit(1)")
    )

    with (
        pytest.raises(ServerFailed, match=r"dies does not answer.*\nno graph"),
        running(dies, core=0, image=b"", log=tmp_path / "log"),
    ):
        pass
