"""``python deploy/try_watching.py --bundle DIR``: has a real Prometheus watch a real server, and checks what it sees.

Every expression of the dashboards and rules must evaluate and give data, and a healthy load raise no alert: every subnetwork in turn,
and streams. Then more comes than can be answered, with deadlines of 5, 25 and 1,000 ms, labels call answers wrong, and a reload finds a
damaged bundle: requests must wait, run together and be refused, the right alerts be raised, Alertmanager's receivers be told, and
what the chart scales by want more replicas. Last the server ends, and it must hold the scale. Windows are of seconds. With
``--plots`` the panels are drawn.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml
from drawn_dashboards import draw, panels, shortened
from watched_load import Load, write_noise
from watchers import DEPLOY, Receiver, scaling_triggers, write_configuration, write_routes

ROOT = Path(__file__).parents[1]
GPU_METRIC = "anytime_gpu_"
HAS_GPU = shutil.which("nvidia-smi") is not None
DRAWN_S = 20.0  # of healthy load; of the overload, and of what follows it, half as much
TIMEOUT_S = 120.0  # for the data of an expression, or an alert
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


def watch(bundle: Path, folder: Path, images: Path | None, plots: Path | None) -> None:
    """Check everything; an assertion names what is amiss."""
    label = json.loads((bundle / "manifest.json").read_text())["labels"][0]
    sent = images or write_noise(folder / "noise", label)
    server_port, prometheus_port, alertmanager_port = free_port(), free_port(), free_port()
    configuration = write_configuration(folder, server_port, alertmanager_port)
    served = shutil.copytree(bundle, folder / "bundle")
    receiver = Receiver(EXPECTED_MESSAGES)
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
        _until(load.is_ready, lambda: time.sleep(0.1), "the server is ready")
        load.learn()
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
