"""What watches a server, as the project configures it, on this machine: Prometheus, Alertmanager, KEDA's questions."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import helm_python
import yaml
from drawn_dashboards import shortened

DEPLOY = Path(__file__).parent
TARGET = {"namespace": "prod", "release": "anytime", "pod": "anytime-1a-2b"}  # what a cluster adds


class Receiver:
    """What Alertmanager's receivers tell: names of alerts, by the receiver.

    Args:
        expected: what is to be told, to whom.
    """

    def __init__(self, expected: Mapping[str, set[str]]) -> None:
        self._expected = expected
        self.told: dict[str, set[str]] = {name: set() for name in expected}
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
            for each, names in self._expected.items()
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
