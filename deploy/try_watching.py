"""``python deploy/try_watching.py --bundle DIR``: has a real Prometheus watch a real server, and checks what it sees.

Every expression of the dashboards and rules must evaluate and give data, no alert may be raised by a healthy load, and
the right ones must be by a planted overload and planted wrong answers. Windows are shortened to seconds. With ``--plots``
the panels are drawn from the data.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
WINDOW_S = 20
GPU_METRIC = "anytime_gpu_"
HAS_GPU = shutil.which("nvidia-smi") is not None
DRAWN_S = 40.0  # of healthy load, for the pictures
TIMEOUT_S = 120.0  # for the data of an expression, or an alert
EXPECTED_ALERTS = {"AnytimeBudgetBurnsFast", "AnytimeBudgetBurnsSlowly", "AnytimeAccuracyDropped"}

Query = Callable[[str], list[dict[str, Any]]]


def shortened(text: str) -> str:
    """Return rules or a query whose windows are seconds and whose alerts do not wait."""
    text = text.replace("$__rate_interval", f"{WINDOW_S}s")
    text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW_S}s]", text)
    return re.sub(r"for: \d+m", "for: 0s", text)


def panels() -> list[dict[str, Any]]:
    """Return every panel of every dashboard, with the dashboard's file name as ``dashboard``."""
    return [
        panel | {"dashboard": path.stem}
        for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
    ]


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    paths = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for path in paths for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Return what must give data under a healthy load, by what it is for."""
    shown = {
        f"{panel['dashboard']}: {panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    found = shown | {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    return {name: each for name, each in found.items() if GPU_METRIC not in each or HAS_GPU}


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """Run a process until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def write_configuration(folder: Path, server_port: int) -> Path:
    """Write Prometheus' configuration, with the project's rules, for a server on this machine."""
    (folder / "rules").mkdir()
    for path in (DEPLOY / "prometheus/rules").glob("*.yml"):
        (folder / "rules" / path.name).write_text(shortened(path.read_text()))
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [
            {"job_name": "anytime", "static_configs": [{"targets": [f"127.0.0.1:{server_port}"]}]}
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


class Load:
    """Requests one after the other: every subnetwork in turn, and labels for what was answered."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        rng = Random(0)
        self._images = cycle([_noise(rng) for _ in range(64)])
        self._subnetworks: Iterator[str] = iter(())
        self.labels: list[str] = []

    def wait_until_ready(self) -> None:
        """Wait for the warm-up, and learn what there is."""
        until = time.monotonic() + TIMEOUT_S
        while not self._answers("/health/ready"):
            assert time.monotonic() < until, "the server is not ready"
            time.sleep(0.1)
        listed = self._client.get("/subnetworks").json()["subnetworks"]
        self._subnetworks = cycle([each["name"] for each in listed])
        answer = self._ask(top_k=2, deadline_ms=10_000)
        self.labels = [each["label"] for each in answer["top"]]

    def send(self) -> None:
        """Ask the next subnetwork, with time enough, and say that it was right; and ask for a stream."""
        answer = self._ask(subnetwork=next(self._subnetworks), deadline_ms=10_000)
        self._label(answer, answer["label"])
        streamed = self._client.post("/classify/stream", content=next(self._images))
        streamed.raise_for_status()

    def send_misfit(self) -> None:
        """Ask with too little time, which the fastest subnetwork answers late, and say that it was wrong."""
        answer = self._ask(deadline_ms=0.001)
        self._label(answer, next(label for label in self.labels if label != answer["label"]))

    def _label(self, answer: dict[str, Any], label: str) -> None:
        body = {"request_id": answer["request_id"], "label": label}
        self._client.post("/feedback", json=body).raise_for_status()

    def _answers(self, path: str) -> bool:
        try:
            return self._client.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def _ask(self, **query: Any) -> dict[str, Any]:
        response = self._client.post("/classify", content=next(self._images), params=query)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer


def _noise(rng: Random) -> bytes:
    file = BytesIO()
    Image.frombytes("RGB", (32, 32), rng.randbytes(32 * 32 * 3)).save(file, "PNG")
    return file.getvalue()


def watch(bundle: Path, folder: Path, plots: Path | None) -> None:
    """Check everything; an assertion names what is amiss."""
    server_port, prometheus_port = free_port(), free_port()
    configuration = write_configuration(folder, server_port)
    server = running(
        [sys.executable, "-m", "service"],
        folder / "server.log",
        ANYTIME_BUNDLE_DIR=str(bundle),
        ANYTIME_PORT=str(server_port),
        ANYTIME_AGREEMENT_SAMPLE="1",
    )
    prometheus = running(
        [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
        ],
        folder / "prometheus.log",
    )
    api = httpx.Client(base_url=f"http://127.0.0.1:{prometheus_port}/api/v1", timeout=60)

    def query(expression: str) -> list[dict[str, Any]]:
        response = api.get("/query", params={"query": shortened(expression)})
        assert response.status_code == 200, f"{expression}: {response.text}"
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return [each for each in result if each["value"][1] != "NaN"]

    def firing() -> set[str]:
        return {each["metric"]["alertname"] for each in query('ALERTS{alertstate="firing"}')}

    with server, prometheus:
        started_at = time.time()
        load = Load(f"http://127.0.0.1:{server_port}")
        load.wait_until_ready()
        _until(lambda: _answers(api), lambda: time.sleep(0.1), "Prometheus answers")
        missing = expressions()

        def all_give_data() -> bool:
            for name in [name for name, expression in missing.items() if query(expression)]:
                del missing[name]
            return not missing

        _until(all_give_data, lambda: _repeat(load.send, 20), lambda: f"data for {missing}")
        print("every expression gives data")
        until = time.monotonic() + (DRAWN_S if plots is not None else 0.0)
        while time.monotonic() < until:
            load.send()
        raised = firing()
        assert not raised & EXPECTED_ALERTS, f"a healthy load raises {raised}"
        _until(
            lambda: firing() >= EXPECTED_ALERTS,
            lambda: _repeat(load.send_misfit, 20),
            lambda: f"{EXPECTED_ALERTS - firing()} to be raised",
        )
        print("planted misses and wrong answers raise", *sorted(EXPECTED_ALERTS))
        if plots is not None:
            draw(api, started_at, plots)


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/status/runtimeinfo").status_code == 200
    except httpx.TransportError:
        return False


def _repeat(action: Callable[[], None], times: int) -> None:
    for _ in range(times):
        action()


def _until(
    is_so: Callable[[], bool], meanwhile: Callable[[], None], what: str | Callable[[], str]
) -> None:
    end_at = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end_at, f"waited for {what() if callable(what) else what}"
        meanwhile()


def draw(api: httpx.Client, started_at: float, folder: Path) -> None:
    """Draw the panels of each dashboard from the data since an instant."""
    from matplotlib import pyplot as plt

    for name in sorted({panel["dashboard"] for panel in panels()}):
        shown = [p for p in panels() if p["dashboard"] == name and p["type"] == "timeseries"]
        rows = -(-len(shown) // 3)
        figure, axes = plt.subplots(rows, 3, figsize=(15, 2.9 * rows), layout="constrained")
        for axis in axes.flat[len(shown) :]:
            axis.remove()
        for axis, panel in zip(axes.flat, shown, strict=False):
            _draw_panel(axis, panel, api, started_at)
        figure.savefig(folder / f"dashboard-{name}.png", dpi=80)
        plt.close(figure)


def _draw_panel(axis: Any, panel: dict[str, Any], api: httpx.Client, started_at: float) -> None:
    percent = panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    scale, unit = {"s": (1e3, "ms"), "bytes": (2**-20, "MiB"), "reqps": (1.0, "1/s")}.get(
        panel["fieldConfig"]["defaults"]["unit"], (100.0, "%") if percent else (1.0, "")
    )
    for target in panel["targets"]:
        span = {"start": started_at, "end": time.time(), "step": 1}
        answer = api.get("/query_range", params={"query": shortened(target["expr"]), **span})
        for series in answer.json()["data"]["result"]:
            points = [(float(t) - started_at, float(value)) for t, value in series["values"]]
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            axis.plot(
                [at for at, _ in points], [scale * value for _, value in points], label=legend
            )
    axis.set_title(panel["title"], fontsize=10)
    axis.set_ylabel(unit)
    axis.set_xlabel("s")
    axis.legend(fontsize=6, loc="best")


def main() -> int:
    """Watch, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--plots", type=Path, help="folder for pictures of the dashboards")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        watch(options.bundle.resolve(), Path(folder), options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
