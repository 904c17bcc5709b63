"""The rules and alerts, by Prometheus' own tools and against the metrics that there are."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.observability.telemetry import Metrics
from service.settings import read_settings
from tests.service.bundles import keep_subnetworks

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = [
    rule
    for path in sorted(PROMETHEUS.glob("rules/*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARDS = "".join(path.read_text() for path in ROOT.glob("deploy/grafana/dashboards/*.json"))
QUERIES = [rule["expr"] for rule in RULES] + re.findall(r'"expr": "(.*)"', DASHBOARDS)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

needs_prometheus = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs Prometheus (apt-get install prometheus)"
)
needs_alertmanager = pytest.mark.skipif(
    not shutil.which("prometheus-alertmanager"),
    reason="needs Alertmanager (apt-get install prometheus-alertmanager)",
)


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [
        "check config prometheus.yml",
        "test rules tests/alerts.yml",
        "test rules tests/releases.yml",
        "test rules tests/slow_burn.yml",
    ],
    ids=lambda text: text,
)
def test_promtool_finds_no_fault(command: str) -> None:
    result = subprocess.run(
        ["promtool", *command.split()], cwd=PROMETHEUS, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr


@needs_alertmanager
@pytest.mark.parametrize("receivers", ["as shipped", "filled in"])
def test_amtool_finds_no_fault(receivers: str, tmp_path: Path) -> None:
    text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    if receivers == "filled in":
        text = text.replace("\n    # ", "\n    ")
    (tmp_path / "alertmanager.yml").write_text(text)

    result = subprocess.run(
        ["amtool", "check-config", tmp_path / "alertmanager.yml"], capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
@needs_alertmanager
@pytest.mark.timeout(360)  # data for every expression comes when it comes
def test_prometheus_sees_the_running_server_and_raises_what_is_planted(tmp_path: Path) -> None:
    script = ROOT / "deploy/try_watching.py"
    bundle = shutil.copytree(read_settings().bundle_dir, tmp_path / "bundle")
    keep_subnetworks(bundle, "narrow-column-1", "wide-full")

    result = subprocess.run(
        [sys.executable, script, "--bundle", bundle], capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_is_amiss_and_leads_to_its_runbook_and_dashboard(
    rule: dict[str, dict[str, str]],
) -> None:
    name = str(rule["alert"])
    annotations = rule["annotations"]

    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard"}
    assert annotations["runbook_url"] == f"{REPOSITORY}/blob/main/docs/runbook.md#{name.lower()}"
    assert f"#### {name}\n" in (ROOT / "docs/runbook.md").read_text()
    uid = re.fullmatch(r"http://localhost:3000/d/([\w-]+)\?var-.*", annotations["dashboard"])
    assert uid
    assert f'"uid": "{uid[1]}"' in DASHBOARDS
    tests = "".join(path.read_text() for path in PROMETHEUS.glob("tests/*.yml"))
    assert f"alertname: {name}" in tests


def test_every_selector_names_the_job_so_that_the_chart_can_narrow_it() -> None:
    for rule in RULES:
        named = re.findall(
            r"(?:\banytime_\w+|\brelease\w*:\w+:\w+|\bup)\b(?!:)(.{0,15})", rule["expr"]
        )

        assert named
        assert all(rest.startswith('{job="anytime"') for rest in named), rule["expr"]
        assert not re.search(r"by \((?!job, namespace, release)", rule["expr"])


def test_rules_and_dashboards_name_only_metrics_that_exist() -> None:
    exposition = Metrics(CollectorRegistry(), version="test").exposition()[0].decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)", exposition, re.MULTILINE))
    series = {
        name + suffix
        for name, kind in types.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }

    named = {
        name for query in QUERIES for name in re.findall(r"(?<!:)\banytime_\w+(?!\w*:)", query)
    }

    assert named
    assert named <= series
    recorded = {name for query in QUERIES for name in re.findall(r"\brelease\w*:\w+:\w+", query)}
    assert recorded <= {rule.get("record") for rule in RULES}
