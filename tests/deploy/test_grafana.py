"""The dashboards, as files; ``test_prometheus.py`` has a Prometheus evaluate what they ask."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy/grafana"
DASHBOARDS = sorted(GRAFANA.glob("dashboards/*"))


def panels_of(path: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, rows aside."""
    return [each for each in json.loads(path.read_text())["panels"] if each["type"] != "row"]


def test_dashboards_are_what_their_source_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GRAFANA / "build.py", tmp_path], check=True)

    written = {path.name: path.read_text() for path in tmp_path.glob("*")}
    assert {path.name: path.read_text() for path in DASHBOARDS} == written, (
        "run python deploy/grafana/build.py"
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_asks_the_chosen_source_for_the_chosen_releases(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/datasources.yml").read_text())

    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "namespace", "release", "model", "subnetwork"}
    assert variables["datasource"]["query"] in {each["type"] for each in provisioned["datasources"]}
    for panel in panels_of(path):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            if target["expr"] != "vector(0.99)":
                assert 'namespace=~"$namespace"' in target["expr"], panel["title"]
                assert 'release=~"$release"' in target["expr"], panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panel_says_what_it_means_in_which_unit_and_leads_to_the_runbook(path: Path) -> None:
    runbook = (ROOT / "docs/runbook.md").read_text().lower()

    for panel in panels_of(path):
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for link in panel.get("links", []):
            assert f"#### {link['url'].partition('#')[2]}\n" in runbook


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_no_panel_lies_on_another(path: Path) -> None:
    taken = [
        (x, y)
        for panel in json.loads(path.read_text())["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23
