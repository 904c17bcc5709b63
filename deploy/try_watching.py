"""``python deploy/try_watching.py --bundle DIR``: has a real Prometheus watch a real server, and checks what it sees.

Every expression of the dashboards and rules must evaluate and give data, and a healthy load raise no alert: every subnetwork in turn,
and streams. Then more comes than can be answered, with deadlines of 5, 25 and 1,000 ms, labels call answers wrong, and a reload finds a
damaged bundle: requests must wait, run together and be refused, the right alerts be raised, Alertmanager's receivers be told, and
what the chart scales by want more replicas. Last the server ends, and it must hold the scale. Windows are of seconds. With ``--plots`` the panels are drawn.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import helm_python
import httpx
import yaml
from drawn_dashboards import draw, panels, shortened
from PIL import Image

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GPU_METRIC = "anytime_gpu_"
HAS_GPU = shutil.which("nvidia-smi") is not None
DRAWN_S = 20.0  # of healthy load; of the overload, and of what follows it, half as much
TIMEOUT_S = 120.0  # for the data of an expression, or an alert
AMPLE_MS = 2000  # deadline of the healthy load
NO_TIME = (422, 503, 504)  # statuses of requests that are refused, or expire
OVERLOAD = (
    f"--phase 3000:{TIMEOUT_S} --connections 64 --deadline-ms 5 25 1000"  # and on_miss=refuse
)
EXPECTED_ALERTS = {
    "AnytimeBudgetBurnsFast",
    "AnytimeBudgetBurnsSlowly",
    "AnytimeRefuses",
    "AnytimeAccuracyDropped",
    "AnytimeReloadFailed",
}
EXPECTED_MESSAGES = {  # those that no other inhibits, by whom they reach
    "page": {"AnytimeBudgetBurnsFast"},
    "ticket": {"AnytimeAccuracyDropped", "AnytimeReloadFailed"},
}
TARGET = {"namespace": "prod", "release": "anytime", "pod": "anytime-1a-2b"}  # what a cluster adds
EXPECTED_SIGHTS = {
    "requests wait": "sum(rate(anytime_queue_time_seconds_sum[1m])) > 0.5",  # in the mean, by Little's law
    "requests run together": "sum(rate(anytime_batch_size_sum[1m])) > sum(rate(anytime_batch_size_count[1m]))",
}

Query = Callable[[str], list[dict[str, Any]]]


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
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Receiver:
    """What Alertmanager's receivers tell: names of alerts, by the receiver."""

    def __init__(self) -> None:
        self.told: dict[str, set[str]] = {name: set() for name in EXPECTED_MESSAGES}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                names = {alert["labels"]["alertname"] for alert in message["alerts"]}
                receiver.told[message["receiver"]] |= names
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def untold(self) -> set[str]:
        """Return what should have been told and was not."""
        return {
            f"word of {name} to {each}"
            for each, names in EXPECTED_MESSAGES.items()
            for name in names - self.told[each]
        }


def write_routes(folder: Path, url: str) -> Path:
    """Write Alertmanager's configuration, the project's, whose receivers are all at a URL and wait for nothing."""
    routes = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    for route in (routes["route"], *routes["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in routes["receivers"]:
        receiver["webhook_configs"] = [{"url": url}]
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(routes))
    return file


@dataclass(frozen=True, slots=True)
class Trigger:
    """What KEDA asks Prometheus for, and has Kubernetes' autoscaler scale by."""

    query: str
    threshold: float


def scaling_triggers() -> dict[str, Trigger]:
    """Return what the chart scales by, by the trigger's name."""
    with helm_python.Chart.load(DEPLOY / "kubernetes/anytime") as chart:
        files = chart.render(
            {"autoscaling": {"enabled": True}, "image": {"repository": "anytime"}},
            name=TARGET["release"],
            namespace=TARGET["namespace"],
        )
    (scaler,) = (yaml.safe_load(text) for text in files.values() if "ScaledObject" in text)
    return {
        each["name"]: Trigger(
            each["metadata"]["query"],
            float(each["metadata"]["threshold"]),
        )
        for each in scaler["spec"]["triggers"]
    }


def write_configuration(folder: Path, server_port: int, alertmanager_port: int) -> Path:
    """Write Prometheus' configuration, with the project's rules, for a server on this machine."""
    (folder / "rules").mkdir()
    for path in (DEPLOY / "prometheus/rules").glob("*.yml"):
        (folder / "rules" / path.name).write_text(shortened(path.read_text()))
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "250ms"},
        "rule_files": ["rules/*.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]
        },
        "scrape_configs": [
            {
                "job_name": "anytime",
                "static_configs": [{"targets": [f"127.0.0.1:{server_port}"], "labels": TARGET}],
            }
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


class Load:
    """Requests one after the other: every subnetwork in turn, and labels for what was answered.

    Args:
        url: of the server.
        images: folder of <class>/*.jpg.
        labelled: whether the class is what an image shows; it is not on noise, and every answer counts as right.
    """

    def __init__(self, url: str, images: Path, *, labelled: bool) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._images = sorted(images.glob("*/*.jp*g"))
        self._labelled = labelled
        self._rng = Random(0)
        self._subnetworks: Iterator[str] = iter(())

    def wait_until_ready(self) -> None:
        """Wait for the warm-up, and learn what there is."""
        until = time.monotonic() + TIMEOUT_S
        while not self._answers("/health/ready"):
            assert time.monotonic() < until, "the server is not ready"
            time.sleep(0.1)
        listed = self._client.get("/subnetworks").json()["subnetworks"]
        self._subnetworks = cycle([each["name"] for each in listed])

    def send(self) -> None:
        """Ask the next subnetwork, with time enough, and say what was right; and ask for a stream."""
        image = self._rng.choice(self._images)
        reply = self._ask("/classify", image, subnetwork=next(self._subnetworks))
        if reply is not None:
            self._label(reply, image.parent.name if self._labelled else reply.json()["label"])
        self._ask("/classify/stream", image)

    def send_mislabelled(self) -> None:
        """Ask for an answer, late or not, and say that it was wrong."""
        reply = self._ask("/classify", self._rng.choice(self._images), deadline_ms=25, top_k=2)
        if reply is not None:
            self._label(reply, reply.json()["top"][1]["label"])

    def _ask(self, path: str, image: Path, **query: Any) -> httpx.Response | None:
        """Return the reply; None where other work left no time for an answer."""
        query = {"deadline_ms": AMPLE_MS} | query
        reply = self._client.post(path, content=image.read_bytes(), params=query)
        return None if reply.status_code in NO_TIME else reply.raise_for_status()

    def _label(self, reply: httpx.Response, label: str) -> None:
        body = {"request_id": reply.json()["request_id"], "label": label}
        self._client.post("/feedback", json=body).raise_for_status()

    def _answers(self, path: str) -> bool:
        try:
            return self._client.get(path).status_code == 200
        except httpx.TransportError:
            return False


def write_noise(folder: Path, label: str) -> Path:
    """Write images of nothing, all in the folder of one class."""
    rng = Random(0)
    (folder / label).mkdir(parents=True)
    for number in range(64):
        image = Image.frombytes("RGB", (32, 32), rng.randbytes(32 * 32 * 3))
        image.save(folder / label / f"{number}.jpg")
    return folder


def watch(bundle: Path, folder: Path, images: Path | None, plots: Path | None) -> None:
    """Check everything; an assertion names what is amiss."""
    label = json.loads((bundle / "manifest.json").read_text())["labels"][0]
    sent = images or write_noise(folder / "noise", label)
    server_port, prometheus_port, alertmanager_port = free_port(), free_port(), free_port()
    configuration = write_configuration(folder, server_port, alertmanager_port)
    served = shutil.copytree(bundle, folder / "bundle")
    receiver = Receiver()
    server = running(
        [sys.executable, "-m", "service"],
        folder / "server.log",
        ANYTIME_BUNDLE_DIR=str(served),
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
    alertmanager = running(
        [
            "prometheus-alertmanager",
            f"--config.file={write_routes(folder, receiver.url)}",
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{alertmanager_port}",
            "--cluster.listen-address=",
        ],
        folder / "alertmanager.log",
    )
    api = httpx.Client(base_url=f"http://127.0.0.1:{prometheus_port}/api/v1", timeout=60)

    def query(expression: str) -> list[dict[str, Any]]:
        response = api.get("/query", params={"query": shortened(expression)})
        assert response.status_code == 200, f"{expression}: {response.text}"
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return [each for each in result if each["value"][1] != "NaN"]

    def firing() -> set[str]:
        return {each["metric"]["alertname"] for each in query('ALERTS{alertstate="firing"}')}

    addressed = ["--port", str(server_port), "--bundle", str(bundle), "--images", str(sent)]
    overload = running(
        [sys.executable, "-m", "benchmarks.load", *addressed, *OVERLOAD.split()],
        folder / "overload.log",
    )
    scaled_by = scaling_triggers()
    drawn_s = DRAWN_S if plots is not None else 0.0

    def go_on(action: Callable[[], None], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            action()

    def scale() -> dict[str, list[float]]:
        """Return the values to scale by, by trigger: one or none."""
        return {
            name: [float(each["value"][1]) for each in query(trigger.query)]
            for name, trigger in scaled_by.items()
        }

    def wants_more(values: dict[str, list[float]]) -> bool:
        """Return whether Kubernetes' autoscaler would want a second replica."""
        return any(
            each > scaled_by[name].threshold for name, found in values.items() for each in found
        )

    with prometheus, alertmanager, server as process:
        started_at = time.time()
        load = Load(f"http://127.0.0.1:{server_port}", sent, labelled=images is not None)
        load.wait_until_ready()
        _until(lambda: _answers(api), lambda: time.sleep(0.1), "Prometheus answers")
        missing = expressions()

        def all_give_data() -> bool:
            for name in [name for name, expression in missing.items() if query(expression)]:
                del missing[name]
            return not missing

        _until(all_give_data, lambda: _repeat(load.send, 20), lambda: f"data for {missing}")
        print("every expression gives data")
        go_on(load.send, drawn_s)
        raised = firing()
        assert not raised & EXPECTED_ALERTS, f"a healthy load raises {raised}"
        print("a healthy load is scaled by:", scale())

        def unseen() -> set[str]:
            raised.update(firing())  # one may have ended when another begins
            sights = {name for name, sight in EXPECTED_SIGHTS.items() if not query(sight)}
            scaled = set() if wants_more(scale()) else {"a wish for replicas"}
            return sights | scaled | EXPECTED_ALERTS - raised | receiver.untold()

        (served / "manifest.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        with overload:
            _until(
                lambda: not unseen(),
                lambda: _repeat(load.send_mislabelled, 20),
                lambda: f"{unseen()} under overload",
            )
            print("overload is scaled by:", scale())
            go_on(load.send_mislabelled, drawn_s / 2)
        print("planted faults show:", *sorted({*EXPECTED_SIGHTS, *EXPECTED_ALERTS}))
        print("Alertmanager told:", receiver.told)
        go_on(load.send, drawn_s / 2)
        if plots is not None:
            draw(api, started_at, plots)
        process.terminate()
        process.wait()
        _until(
            lambda: "AnytimeDown" in receiver.told["page"] and bool(query("up == 0")),
            lambda: time.sleep(0.1),
            "word of the server that is gone",
        )
        found = scale()
        assert found == {"misses": [1.0], "queue": [], "busy": []}, f"scaled by {found}"
        print("without a server the scale is held:", found)


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


def main() -> int:
    """Watch, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="folder of <class>/*.jpg; noise if not given")
    parser.add_argument("--plots", type=Path, help="folder for pictures of the dashboards")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = options.images and options.images.resolve()
        watch(options.bundle.resolve(), Path(folder), images, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
