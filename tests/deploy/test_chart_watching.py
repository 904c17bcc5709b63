"""How the Helm chart is watched and scaled: monitor, rules, dashboards, and the queries of its scaler."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.observability.telemetry import Metrics
from tests.deploy.chart import CHART, SCALED, VALUES, WATCHED, render


@pytest.mark.parametrize("name", ["anytime", "vision"])
def test_monitor_gives_the_job_that_rules_and_dashboards_name(name: str) -> None:
    (endpoint,) = render(SCALED, name)["ServiceMonitor"]["spec"]["endpoints"]

    assert endpoint["relabelings"] == [
        {"targetLabel": "job", "replacement": "anytime"},
        {"targetLabel": "release", "replacement": name},
    ]


def test_rules_are_those_of_prometheus_narrowed_to_the_release() -> None:
    groups = render(WATCHED, "vision")["PrometheusRule"]["spec"]["groups"]

    shipped = [
        group
        for path in sorted((CHART / "files/rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    narrowed = 'job="anytime",namespace="prod",release="vision"'
    written = json.dumps(groups).replace(
        json.dumps(narrowed)[1:-1], json.dumps('job="anytime"')[1:-1]
    )
    assert (
        json.loads(written.replace("https://grafana.example", "http://localhost:3000")) == shipped
    )
    assert all(narrowed in rule["expr"] for group in groups for rule in group["rules"])


def test_dashboards_are_those_of_grafana() -> None:
    found = render(WATCHED)["ConfigMap"]

    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    for path in (CHART / "files/dashboards").glob("*.json"):
        assert json.loads(found["data"][f"anytime-{path.name}"]) == json.loads(path.read_text())


def test_monitor_finds_no_service_that_kserve_makes() -> None:
    rendered = render(VALUES["kserve, gpu, scaled"])

    wanted = rendered["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    service = rendered["InferenceService"]
    assert not wanted <= service["metadata"]["labels"].items()
    assert not wanted <= service["spec"]["predictor"]["labels"].items()


def test_scaling_leaves_the_count_to_the_scaler() -> None:
    rendered = render(SCALED)

    assert "replicas" not in rendered["Deployment"]["spec"]
    assert (
        rendered["ScaledObject"]["spec"]["scaleTargetRef"]["name"]
        == (rendered["Deployment"]["metadata"]["name"])
    )


def test_scaling_asks_for_metrics_that_the_server_has() -> None:
    text = Metrics(CollectorRegistry(), version="0").exposition()[0].decode()
    exported = {family.name for family in text_string_to_metric_families(text)}

    for trigger in render(SCALED)["ScaledObject"]["spec"]["triggers"]:
        words = trigger["metadata"]["query"].replace("{", " ").replace("(", " ").split()
        for name in (word for word in words if word.startswith("anytime_")):
            assert name.removesuffix("_total").removesuffix("_sum") in exported


UP = 'up{namespace="prod", pod="anytime-1a-%s"}'


REQUESTS = 'anytime_requests_total{namespace="prod", pod="anytime-1a-%s", outcome="%s"}'


WAITED = 'anytime_queue_time_seconds_sum{namespace="prod", pod="anytime-1a-%s", model="m"}'


BUSY = 'anytime_run_latency_seconds_sum{namespace="prod", pod="anytime-1a-%s", subnetwork="full"}'


TWO_SEEN = {
    WAITED % "2b": "0+180x20",
    WAITED % "3c": "0+300x20",
    BUSY % "2b": "0+30x20",
    BUSY % "3c": "0+42x20",
}


SCALED_BY: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "idle": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "5x20",
            REQUESTS % ("2b", "late"): "0x20",
        },
        {"misses": 0},
    ),
    "all in time": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "0+60x20",
            REQUESTS % ("2b", "late"): "0x20",
        },
        {"misses": 0},
    ),
    "one in 100 late": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "0+99x20",
            REQUESTS % ("2b", "late"): "0+1x20",
        },
        {"misses": 1},
    ),
    "all seen": ({UP % "2b": "1x20", UP % "3c": "1x20", **TWO_SEEN}, {"queue": 8, "busy": 1.2}),
    "one of three no longer seen": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "1x9 0x11", **TWO_SEEN},
        {"queue": 12, "busy": 1.8},
    ),
    "one of three still to come": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "0x20", **TWO_SEEN},
        {"queue": 8, "busy": 1.2},
    ),
    "one of three gone for good": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "1x9 stale", **TWO_SEEN},
        {"queue": 8, "busy": 1.2},
    ),
    "none seen any more": (
        {UP % "2b": "1x9 0x11", WAITED % "2b": "0+180x9 stale", BUSY % "2b": "0+30x9 stale"},
        {"misses": 1},  # as many replicas as there are
    ),
    "none known any more": (
        {UP % "2b": "1x9 stale", WAITED % "2b": "0+180x9 stale"},
        {"misses": 1},
    ),
}


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs Prometheus (apt-get install prometheus)"
)
def test_scaling_goes_by_what_is_seen_and_holds_without_data(tmp_path: Path) -> None:
    triggers = render(SCALED)["ScaledObject"]["spec"]["triggers"]
    queries = {each["name"]: each["metadata"]["query"] for each in triggers}
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({query}, 1e-6)",
                    "eval_time": "15m",
                    "exp_samples": [{"labels": "{}", "value": wanted[trigger]}]
                    if trigger in wanted
                    else [],
                }
                for trigger, query in queries.items()
                if trigger in wanted or name.startswith("none")
            ],
        }
        for name, (series, wanted) in SCALED_BY.items()
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": tests}))

    result = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr
