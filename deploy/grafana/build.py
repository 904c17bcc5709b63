"""``python deploy/grafana/build.py``: writes the dashboards that Grafana is provisioned with.

They are described here and nowhere else; a test fails where ``dashboards/`` is not what this writes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "dashboards"
ACROSS, HEIGHT, COLUMNS = 3, 8, 24
RECEIVED = 'anytime_requests_total{outcome!~"invalid|impossible|abandoned"}[$__rate_interval]'
SORTED = (
    "Early stops (stop_at_confidence) sort the images: the shallow subnetworks keep the easy ones and the "
    "deep ones get the hard, so that the former lie higher here, and the latter lower."
)

Unit = Literal["percentunit", "s", "reqps", "bytes", "short", "none"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        title: what it shows.
        unit: of its values.
        queries: PromQL by legend; a legend may use labels, as in ``{{subnetwork}}``.
        kind: ``table`` shows the values now.
        description: what to look for, where the title does not say it.
    """

    title: str
    unit: Unit
    queries: dict[str, str]
    kind: Literal["timeseries", "table"] = "timeseries"
    description: str = ""


def quantiles(metric: str, *levels: float) -> dict[str, str]:
    """Return queries for quantiles of a histogram over all servers."""
    rate = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return {f"p{100 * level:g}": f"histogram_quantile({level}, {rate})" for level in levels}


def mean(metric: str, by: str = "") -> str:
    """Return the mean of a histogram's values."""
    parts = [f"sum{by} (rate({metric}_{part}[$__rate_interval]))" for part in ("sum", "count")]
    return " / ".join(parts)


OPERATOR = [
    Panel(
        "Answered in time",
        "percentunit",
        {"in time": "1 - release:anytime_errors:ratio_rate5m", "objective": "vector(0.99)"},
    ),
    Panel(
        "Burn rate of the error budget",
        "none",
        {
            window: f"release:anytime_errors:ratio_rate{window} / 0.01"
            for window in ("5m", "1h", "6h", "3d")
        },
        description="At 1 the budget lasts 30 days; at 14.4 over an hour somebody is paged.",
    ),
    Panel(
        "Requests by outcome",
        "reqps",
        {"{{outcome}}": "sum by (outcome) (rate(anytime_requests_total[$__rate_interval]))"},
    ),
    Panel("Latency", "s", quantiles("anytime_request_latency_seconds", 0.5, 0.95, 0.99)),
    Panel(
        "Latency against the deadline",
        "percentunit",
        quantiles("anytime_deadline_used_ratio", 0.5, 0.95, 0.99),
        description="Over 100 % is late.",
    ),
    Panel(
        "Answers by subnetwork",
        "reqps",
        {
            "{{subnetwork}}": "sum by (subnetwork) "
            "(rate(anytime_request_latency_seconds_count[$__rate_interval]))"
        },
    ),
    Panel(
        "Refused and expired",
        "percentunit",
        {
            "{{outcome}}": "sum by (outcome) (rate(anytime_requests_total"
            '{outcome=~"refused|expired"}[$__rate_interval])) '
            f"/ on () group_left () sum(rate({RECEIVED}))"
        },
    ),
    Panel(
        "Impossible deadlines",
        "percentunit",
        {
            "impossible": 'sum(rate(anytime_requests_total{outcome="impossible"}[$__rate_interval]))'
            ' / sum(rate(anytime_requests_total{outcome!~"invalid|abandoned"}[$__rate_interval]))'
        },
        description="The share of requests whose deadline no idle machine meets; it spends no budget.",
    ),
    Panel("Queue", "short", {"{{instance}}": "anytime_queue_depth"}),
    Panel(
        "Saturation",
        "percentunit",
        {
            "device {{instance}}": "sum by (instance) "
            "(rate(anytime_run_latency_seconds_sum[$__rate_interval]))",
            "cores {{instance}}": "rate(process_cpu_seconds_total"
            '{job="anytime"}[$__rate_interval])',
        },
        description="The share of time that the device runs, and the CPU cores in use.",
    ),
    Panel("Time in the queue", "s", quantiles("anytime_queue_time_seconds", 0.5, 0.95, 0.99)),
    Panel(
        "Slack at dispatch",
        "s",
        quantiles("anytime_slack_seconds", 0.05, 0.5),
        description="What deadlines leave beyond the predicted run latency; under 0 is given up.",
    ),
    Panel("First answer of a stream", "s", quantiles("anytime_first_answer_seconds", 0.5, 0.99)),
    Panel(
        "Refinements",
        "reqps",
        {"{{outcome}}": "sum by (outcome) (rate(anytime_refinements_total[$__rate_interval]))"},
        description="Runs for a better answer than the one in hand; those unused came too late.",
    ),
    Panel("Requests a run", "none", {"mean": mean("anytime_batch_size")}),
    Panel(
        "Run latency over prediction",
        "percentunit",
        {
            **quantiles("anytime_run_over_prediction_ratio", 0.5, 0.95),
            "slowdown {{instance}} {{device}}": "anytime_slowdown_ratio",
        },
        description="98 % of the runs should lie under 100 %.",
    ),
    Panel(
        "Cost of a request outside its run",
        "s",
        {"decode": mean("anytime_decode_seconds"), "reply": mean("anytime_reply_seconds")},
    ),
    Panel(
        "Memory",
        "bytes",
        {
            "{{instance}}": 'process_resident_memory_bytes{job="anytime"}',
            "GPU of {{instance}}, {{state}}": "anytime_gpu_memory_bytes",
        },
    ),
    Panel(
        "Log lines dropped",
        "short",
        {"{{instance}}": "increase(anytime_log_lines_dropped_total[$__rate_interval])"},
        description="Over 0 nobody reads the log, or its disk is full; requests do not wait for it.",
    ),
    Panel("Ready", "none", {"{{instance}}": "anytime_ready"}),
    Panel(
        "What runs",
        "none",
        {
            "{{instance}} {{version}}": "anytime_build_info",
            "{{instance}} {{name}}": "anytime_bundle_info",
        },
        kind="table",
    ),
]

MODEL = [
    Panel(
        "Accuracy of what was answered",
        "percentunit",
        {
            "expected": "release:anytime_expected_accuracy:ratio_rate5m",
            "agrees with the best": 'sum(rate(anytime_agreement_total{verdict="agrees"}[1h])) '
            "/ sum(rate(anytime_agreement_total[1h]))",
            "labelled": "release:anytime_labelled_accuracy:ratio_rate1h",
            "expected of those labelled": "release:anytime_labelled_expected_accuracy:ratio_rate1h",
        },
        description="Labelled under expected of those labelled: the images or the network changed.",
    ),
    Panel(
        "Labelled accuracy by subnetwork",
        "percentunit",
        {"{{subnetwork}}": "release_subnetwork:anytime_labelled_accuracy:ratio_rate1h"},
        description=SORTED,
    ),
    Panel(
        "Agreement with the best by subnetwork",
        "percentunit",
        {"{{subnetwork}}": "release_subnetwork:anytime_agreement:ratio_rate1h"},
        description=SORTED,
    ),
    Panel(
        "Labelled less expected accuracy",
        "percentunit",
        {
            "{{subnetwork}}": "release_subnetwork:anytime_labelled_accuracy:ratio_rate1h "
            "- release_subnetwork:anytime_accuracy:ratio"
        },
        description=f"Around 0 while production looks like the validation images. {SORTED}",
    ),
    Panel(
        "Share of answers by subnetwork",
        "percentunit",
        {
            "{{subnetwork}}": "sum by (subnetwork) "
            "(rate(anytime_request_latency_seconds_count[$__rate_interval])) / on () group_left () "
            "sum(rate(anytime_request_latency_seconds_count[$__rate_interval]))"
        },
    ),
    Panel(
        "Mean confidence by subnetwork",
        "percentunit",
        {"{{subnetwork}}": mean("anytime_confidence_ratio", " by (subnetwork)")},
        description="Calibrated: a mean under the subnetwork's accuracy means unfamiliar images. "
        + SORTED,
    ),
    Panel("Confidence", "percentunit", quantiles("anytime_confidence_ratio", 0.05, 0.25, 0.5)),
    Panel(
        "Labels answered",
        "percentunit",
        {
            "{{label}}": "sum by (label) (rate(anytime_predictions_total[$__rate_interval])) "
            "/ on () group_left () sum(rate(anytime_predictions_total[$__rate_interval]))"
        },
        description="A change of the mix is drift of the images, or of the network.",
    ),
    Panel(
        "Accuracy and run latency",
        "none",
        {
            "{{subnetwork}} accuracy": "avg by (subnetwork) (anytime_subnetwork_accuracy_ratio)",
            "{{subnetwork}} ms": "1e3 * avg by (subnetwork) (anytime_predicted_run_latency_seconds)",
        },
        kind="table",
        description="The front that deadlines choose from; the latency is that of one image, now.",
    ),
    Panel(
        "Labels and comparisons that came",
        "reqps",
        {
            "labels {{outcome}}": "sum by (outcome) (rate(anytime_feedback_total[$__rate_interval]))",
            "comparisons": "sum(rate(anytime_agreement_total[$__rate_interval]))",
        },
    ),
]


def dashboard(uid: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    """Return Grafana's document of a dashboard."""
    return {
        "uid": uid,
        "title": title,
        "schemaVersion": 39,
        "tags": ["anytime"],
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["anytime"], "title": "Dashboards"}],
        "panels": [_panel(index, panel) for index, panel in enumerate(panels)],
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    width = COLUMNS // ACROSS
    is_table = panel.kind == "table"
    document: dict[str, Any] = {
        "id": index + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {
            "x": index % ACROSS * width,
            "y": index // ACROSS * HEIGHT,
            "w": width,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
            | ({"instant": True} if is_table else {})
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }
    if is_table:
        document["transformations"] = [{"id": "reduce", "options": {"reducers": ["lastNotNull"]}}]
    return document


DASHBOARDS = {
    "operator.json": dashboard("anytime-operator", "Anytime: operation", OPERATOR),
    "model.json": dashboard("anytime-model", "Anytime: accuracy", MODEL),
}


def render(document: dict[str, Any]) -> str:
    """Return the file of a dashboard."""
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    for file, document in DASHBOARDS.items():
        (FOLDER / file).write_text(render(document))
