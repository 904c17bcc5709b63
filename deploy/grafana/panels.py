"""What a dashboard is made of, and the documents that Grafana reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

REPOSITORY = "https://github.com/anytime-inference/anytime"
RUNBOOK = f"{REPOSITORY}/blob/main/docs/runbook.md"
COLUMNS = 24
VARIABLES = ("namespace", "release")  # whatever has no such label is all of it
CHOSEN = 'job="anytime",namespace=~"$namespace",release=~"$release"'
OF_MODEL = 'model=~"$model"'
SUBNETWORK = f'{OF_MODEL},subnetwork=~"$subnetwork"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Unit = Literal[  # Grafana's: one that it does not know is a suffix
    "percentunit",
    "s",
    "reqps",
    "bytes",
    "none",
    "suffix:requests",
    "suffix:replicas",
    "suffix:open",
    "suffix:connections/s",
    "suffix:lines",
    "suffix:times",
    "suffix:in an hour",
]
Kind = Literal["timeseries", "stat", "table", "heatmap"]
Colour = Literal["green", "orange", "red", "text"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        title: what it shows.
        unit: of its values.
        queries: PromQL by legend; a legend may use labels, as in ``{{subnetwork}}``.
        description: what to look for, and what it means.
        kind: ``stat`` shows the last value in the colour of its step, ``table`` the values now.
        low: the least value there can be, None where it is not known.
        high: the greatest.
        steps: colours by the value from which on they hold, the first from the least on.
        runbook: the alert whose entry helps.
        has_exemplars: whether single requests are shown, with their traces.
        columns: of 24.
        rows: of the grid.
    """

    title: str
    unit: Unit
    queries: dict[str, str]
    description: str
    kind: Kind = "timeseries"
    low: float | None = 0
    high: float | None = None
    steps: Sequence[tuple[float | None, Colour]] = ((None, "text"),)
    runbook: str = ""
    has_exemplars: bool = False
    columns: int = 8
    rows: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and the panels that answer it."""

    title: str
    panels: Sequence[Panel]


def chosen(metric: str, *further: str, over: str = "") -> str:
    """Return a selector of a metric's series of the chosen namespace and release, over a window if one is given."""
    labels = ",".join([CHOSEN, *further])
    return f"{metric}{{{labels}}}" + (f"[{over}]" if over else "")


def rate(metric: str, *further: str, over: str = "$__rate_interval") -> str:
    """Return the rate of a counter."""
    return f"rate({chosen(metric, *further, over=over)})"


def quantiles(metric: str, *levels: float, of: str = "") -> dict[str, str]:
    """Return queries for quantiles of a histogram over all servers."""
    buckets = f"sum by (le) ({rate(f'{metric}_bucket', *([of] if of else []))})"
    return {f"p{100 * level:g}": f"histogram_quantile({level}, {buckets})" for level in levels}


def buckets(metric: str, *further: str) -> dict[str, str]:
    """Return the query of a heat map."""
    return {"{{le}}": f"sum by (le) ({rate(f'{metric}_bucket', *further)})"}


def mean(metric: str, *further: str, by: str = "") -> str:
    """Return the mean of a histogram's values."""
    parts = [f"sum{by} ({rate(f'{metric}_{part}', *further)})" for part in ("sum", "count")]
    return " / ".join(parts)


def dashboard(uid: str, title: str, description: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return Grafana's document of a dashboard."""
    documents: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        documents.append(_row(len(documents) + 1, row.title, y))
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.columns > COLUMNS:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.columns, "h": panel.rows}
            documents.append(_panel(len(documents) + 1, panel, place))
            x, height = x + panel.columns, max(height, panel.rows)
        y += height
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "schemaVersion": 39,
        "tags": ["anytime"],
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "graphTooltip": 1,  # one crosshair for all panels
        "links": [
            {
                "type": "dashboards",
                "tags": ["anytime"],
                "title": "Dashboards",
                "includeVars": True,
                "keepTime": True,
            },
            {"type": "link", "title": "Runbook", "url": RUNBOOK},
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": _annotations()},
        "panels": documents,
    }


def render(document: dict[str, Any]) -> str:
    """Return the file of a dashboard."""
    return json.dumps(document, indent=2) + "\n"


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    ready = 'anytime_ready{job="anytime"}'
    queries = {
        "namespace": f"label_values({ready}, namespace)",
        "release": 'label_values(anytime_ready{job="anytime",namespace=~"$namespace"}, release)',
        "model": f"label_values({chosen('anytime_subnetwork_accuracy_ratio')}, model)",
        "subnetwork": f"label_values({chosen('anytime_subnetwork_accuracy_ratio', OF_MODEL)}, subnetwork)",
    }
    return [source] + [
        {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }
        for name, query in queries.items()
    ]


def _annotations() -> list[dict[str, Any]]:
    events = {
        "Reloads": (
            f"increase({chosen('anytime_reloads_total', over='1m')}) > 0",
            "reload {{outcome}}",
            "blue",
        ),
        "Starts": (
            f"time() - {chosen('process_start_time_seconds')} < 60",
            "start of {{instance}}",
            "purple",
        ),
        "Deaths": (
            f"increase({chosen('anytime_processes_died_total', over='1m')}) > 0",
            "a process of {{instance}} died",
            "orange",
        ),
        "Alerts": (
            'ALERTS{alertname=~"Anytime.*",alertstate="firing",namespace=~"$namespace",release=~"$release"}',
            "{{alertname}}",
            "red",
        ),
    }
    return [
        {
            "name": name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": colour,
            "expr": query,
            "titleFormat": title,
            "step": "15s",
        }
        for name, (query, title, colour) in events.items()
    ]


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    # A stat of a range shows the last value that there was, however old; and NaN in the colour of the least.
    is_now = panel.kind in ("table", "stat")
    limits = {"min": panel.low, "max": panel.high}
    defaults: dict[str, Any] = {"unit": panel.unit}
    defaults |= {name: value for name, value in limits.items() if value is not None}
    defaults["thresholds"] = {
        "mode": "absolute",
        "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
    }
    document: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": f"({query}) > -Inf" if panel.kind == "stat" else query,
                "legendFormat": legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            | ({"instant": True} if is_now else {})
            | ({"exemplar": True} if panel.has_exemplars else {})
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }
    if panel.runbook:
        url = f"{RUNBOOK}#{panel.runbook.lower()}"
        document["links"] = [{"title": panel.runbook, "url": url, "targetBlank": True}]
    match panel.kind:
        case "table":
            document["transformations"] = [
                {"id": "reduce", "options": {"reducers": ["lastNotNull"]}}
            ]
        case "stat":
            is_named = len(panel.queries) > 1 or any("{{" in legend for legend in panel.queries)
            document["options"] = {
                "reduceOptions": {"calcs": ["lastNotNull"]},
                "colorMode": "background",
                "graphMode": "none",
                "textMode": "value_and_name" if is_named else "value",
            }
        case "heatmap":
            document["options"] = {
                "calculate": False,
                "yAxis": {"unit": panel.unit},
                "rowsFrame": {"layout": "le"},
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "cellGap": 1,
                "tooltip": {"mode": "single", "yHistogram": True},
            }
        case "timeseries":
            is_limited = len(panel.steps) > 1
            defaults["custom"] = {
                "fillOpacity": 5,
                "thresholdsStyle": {"mode": "dashed" if is_limited else "off"},
            }
            document["options"] = {
                "legend": {"showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
    return document
