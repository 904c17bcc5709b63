"""The dashboards, as files; ``test_prometheus.py`` has a Prometheus evaluate what they ask."""

import json
import runpy
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "deploy/grafana"
BUILD = runpy.run_path(str(GRAFANA / "build.py"))


def test_dashboards_are_what_their_source_says() -> None:
    files = {path.name: path.read_text() for path in GRAFANA.glob("dashboards/*")}

    wanted = {name: BUILD["render"](document) for name, document in BUILD["DASHBOARDS"].items()}

    assert files == wanted, "run python deploy/grafana/build.py"


@pytest.mark.parametrize("path", sorted(GRAFANA.glob("dashboards/*")), ids=lambda path: path.name)
def test_panels_ask_the_data_source_that_is_provisioned(path: Path) -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/datasources.yml").read_text())
    uids = {source["uid"] for source in sources["datasources"] if source["type"] == "prometheus"}

    panels = json.loads(path.read_text())["panels"]

    assert {panel["datasource"]["uid"] for panel in panels} == uids
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)
