"""Three real replicas behind a real HAProxy, under load, while one dies, one is drained and all are rolled."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import read_settings
from tests.service.bundles import keep_subnetworks

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("haproxy"), reason="needs haproxy (apt-get install haproxy)"
    ),
    pytest.mark.timeout(300),  # nine starts of a server
]


def test_no_request_is_lost_or_answered_twice(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "try_replicas.py"
    bundle = shutil.copytree(read_settings().bundle_dir, tmp_path / "bundle")
    keep_subnetworks(bundle, "narrow-column-1", "narrow-column-2")

    result = subprocess.run(
        [sys.executable, script, "--bundle", bundle, "--rate", "50", "--seconds", "0.2"],
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "'second'" in result.stdout, "the bundle that was rolled out answered nothing"
    assert "'third'" in result.stdout, "the bundle that was reloaded answered nothing"
