"""``python deploy/grafana/build.py``: writes the dashboards that Grafana is provisioned with.

They are described here and nowhere else; a test fails where ``dashboards/`` is not what this writes. Rows go from whether deadlines
are met to why they are not.
"""

import sys
from pathlib import Path

from accuracy import ACCURACY
from causes import STREAMS, WHO_ASKS, WHY_MACHINE, WHY_QUEUE
from panels import (
    OF_MODEL,
    SUBNETWORK,
    Panel,
    Row,
    buckets,
    chosen,
    dashboard,
    quantiles,
    rate,
    render,
)

FOLDER = Path(__file__).parent / "dashboards"
COUNTED = 'outcome!~"invalid|impossible|abandoned"'
ANSWERED = 'outcome="in_time"'
UNANSWERED = 'outcome=~"refused|expired"'
IMPOSSIBLE = 'outcome="impossible"'
POSSIBLE_OR_NOT = 'outcome!~"invalid|abandoned"'
FAILED, NOT_FAILED = 'outcome="failed"', 'outcome!="failed"'
IN_TIME = ((None, "red"), (0.97, "orange"), (0.99, "green"))
BURN = ((None, "green"), (1.0, "orange"), (6.0, "red"))
NONE_IS_WELL = ((None, "green"), (1e-9, "red"))
FIRING = (
    'ALERTS{alertname=~"Anytime.*",alertstate="firing",namespace=~"$namespace",release=~"$release"}'
)
RECEIVED = f"sum({rate('anytime_requests_total', COUNTED)})"
SPENT = (
    f"(1 - sum(increase({chosen('anytime_requests_total', ANSWERED, over='30d')}))"
    f" / sum(increase({chosen('anytime_requests_total', COUNTED, over='30d')}))) / 0.01"
)

ARE_DEADLINES_MET = Row(
    "Are deadlines met?",
    [
        Panel(
            "In time now",
            "percentunit",
            {"in time": f"1 - avg({chosen('release:anytime_errors:ratio_rate5m')})"},
            "Share of the requests of five minutes that were answered in time; the objective is 99 %. Refused, expired, late and "
            "failed ones are not; impossible, invalid and abandoned ones do not count.",
            kind="stat",
            high=1,
            steps=IN_TIME,
            runbook="AnytimeBudgetBurnsFast",
            columns=4,
            rows=4,
        ),
        Panel(
            "Budget left of 30 days",
            "percentunit",
            {"left": f"1 - {SPENT}"},
            "What is left of the 1 % that may miss in 30 days; under 0 the objective is missed.",
            kind="stat",
            low=None,
            high=1,
            steps=((None, "red"), (0.0, "orange"), (0.25, "green")),
            runbook="AnytimeBudgetBurnsSlowly",
            columns=4,
            rows=4,
        ),
        Panel(
            "Burn rate, 1 h",
            "suffix:times",
            {"burn rate": f"max({chosen('release:anytime_errors:ratio_rate1h')}) / 0.01"},
            "How many times faster than in 30 days the budget is spent. At 14.4 somebody is paged.",
            kind="stat",
            steps=BURN,
            runbook="AnytimeBudgetBurnsFast",
            columns=3,
            rows=4,
        ),
        Panel(
            "Requests",
            "reqps",
            {"requests": f"sum({rate('anytime_requests_total')})"},
            "Requests a second, of every outcome. None at all is a caller's or a proxy's matter.",
            kind="stat",
            columns=3,
            rows=4,
        ),
        Panel(
            "Replicas not ready",
            "suffix:replicas",
            {"not ready": f"count({chosen('up')}) - (sum({chosen('anytime_ready')}) or vector(0))"},
            "Replicas that Prometheus knows and that take no requests: gone, starting or draining.",
            kind="stat",
            steps=((None, "green"), (1.0, "orange"), (2.0, "red")),
            runbook="AnytimeNotReady",
            columns=3,
            rows=4,
        ),
        Panel(
            "Alerts",
            "none",
            {
                "{{alertname}}": f"count by (alertname) ({FIRING})"
                f' or label_replace(vector(0) unless on () {FIRING}, "alertname", "none", "", "")'
            },
            "Alerts that fire, by name, and of how many things each; the red marks in the panels below say since when.",
            kind="stat",
            steps=((None, "green"), (1.0, "red")),
            columns=7,
            rows=4,
        ),
        Panel(
            "Answered in time",
            "percentunit",
            {
                "5 minutes": f"1 - avg({chosen('release:anytime_errors:ratio_rate5m')})",
                "an hour": f"1 - avg({chosen('release:anytime_errors:ratio_rate1h')})",
                "objective": "vector(0.99)",
            },
            "Since when? Compare with the marks of reloads (blue), starts (purple), deaths of processes (orange) and alerts (red).",
            high=1,
            runbook="AnytimeBudgetBurnsFast",
        ),
        Panel(
            "Requests by outcome",
            "reqps",
            {"{{outcome}}": f"sum by (outcome) ({rate('anytime_requests_total')})"},
            "What became of them. late or refused: overload, or deadlines without room. failed: the server's fault. impossible: "
            "deadlines that no idle machine meets.",
            runbook="AnytimeRefuses",
        ),
        Panel(
            "Latency against the deadline",
            "percentunit",
            buckets("anytime_deadline_used_ratio"),
            "Where answers fall between arrival (0) and deadline (100 %). Above 100 % they are late. A band that climbs is a queue that grows.",
            kind="heatmap",
            runbook="AnytimeBudgetBurnsFast",
        ),
    ],
)

WHAT_DO_CALLERS_GET = Row(
    "What do callers get?",
    [
        Panel(
            "Answers by subnetwork",
            "reqps",
            {
                "{{model}} {{subnetwork}}": "sum by (model, subnetwork) "
                f"({rate('anytime_request_latency_seconds_count', SUBNETWORK)})"
            },
            "Load shows here first: answers come from shallower subnetworks before they come late.",
        ),
        Panel(
            "Expected accuracy",
            "percentunit",
            {
                "{{model}}": f"sum by (model) ({rate('anytime_expected_correct_total', SUBNETWORK)})"
                f" / sum by (model) ({rate('anytime_request_latency_seconds_count', SUBNETWORK)})"
            },
            "The validation accuracy of what answered: the price of load and of short deadlines.",
            high=1,
        ),
        Panel(
            "Latency",
            "s",
            quantiles("anytime_request_latency_seconds", 0.5, 0.95, 0.99, of=SUBNETWORK),
            "Arrival to answer at the server; network and proxies come on top. A diamond is a request that was traced, with its trace_id.",
            has_exemplars=True,
        ),
        Panel(
            "Latency of all answers",
            "s",
            buckets("anytime_request_latency_seconds", SUBNETWORK),
            "Two bands are two kinds of requests or two subnetworks; a smear upwards is waiting.",
            kind="heatmap",
        ),
        Panel(
            "Refused and expired",
            "percentunit",
            {
                "{{outcome}}": "sum by (outcome) "
                f"({rate('anytime_requests_total', UNANSWERED)}) "
                f"/ on () group_left () {RECEIVED}"
            },
            "Refused on arrival, or given up in the queue, as their deadlines could not be met.",
            high=1,
            runbook="AnytimeRefuses",
        ),
        Panel(
            "Impossible deadlines",
            "percentunit",
            {
                "impossible": f"sum({rate('anytime_requests_total', IMPOSSIBLE)})"
                f" / sum({rate('anytime_requests_total', POSSIBLE_OR_NOT)})"
            },
            "Requests whose deadline no idle machine meets. They spend no budget, and no replica helps them.",
            high=1,
            runbook="AnytimeDeadlinesImpossible",
        ),
    ],
)

WHICH_MODEL = Row(
    "Which model?",
    [
        Panel(
            "Answered in time, by model",
            "percentunit",
            {
                "{{model}}": f"sum by (model) ({rate('anytime_requests_total', ANSWERED, OF_MODEL)})"
                f" / sum by (model) ({rate('anytime_requests_total', COUNTED, OF_MODEL)})"
            },
            "Deadlines are compared across models: the one with the shorter ones loses first. A canary is a model of its own.",
            high=1,
            steps=IN_TIME,
            runbook="AnytimeBudgetBurnsFast",
            columns=6,
        ),
        Panel(
            "Requests, by model",
            "reqps",
            {"{{model}}": f"sum by (model) ({rate('anytime_requests_total', OF_MODEL)})"},
            "Requests a second, of every outcome.",
            columns=6,
        ),
        Panel(
            "Latency, p99 by model",
            "s",
            {
                "{{model}}": "histogram_quantile(0.99, sum by (model, le) "
                f"({rate('anytime_request_latency_seconds_bucket', SUBNETWORK)}))"
            },
            "Arrival to answer at the server.",
            columns=6,
        ),
        Panel(
            "Device, by model",
            "percentunit",
            {
                "{{model}}": f"sum by (model) ({rate('anytime_run_latency_seconds_sum', SUBNETWORK)})"
            },
            "The share of time that the devices run for each model: who takes what another lacks.",
            columns=6,
        ),
    ],
)

WHICH_REPLICA = Row(
    "Which replica?",
    [
        Panel(
            "Answered in time, by replica",
            "percentunit",
            {
                "{{instance}}": f"sum by (instance) ({rate('anytime_requests_total', ANSWERED)})"
                f" / sum by (instance) ({rate('anytime_requests_total', COUNTED)})"
            },
            "One line below the others is a replica that is slow or ill: take it out. All of them: the load, the bundle or the callers.",
            high=1,
            steps=IN_TIME,
            runbook="AnytimeBudgetBurnsFast",
        ),
        Panel(
            "Requests, by replica",
            "reqps",
            {"{{instance}}": f"sum by (instance) ({rate('anytime_requests_total')})"},
            "Requests a second, of every outcome. A proxy that counts requests in progress sends a slow replica fewer.",
        ),
        Panel(
            "Latency, p95 by replica",
            "s",
            {
                "{{instance}}": "histogram_quantile(0.95, sum by (instance, le) "
                f"({rate('anytime_request_latency_seconds_bucket', SUBNETWORK)}))"
            },
            "Arrival to answer at the server. Higher at one replica alone: see its queue and slowdown below, and who else is on its machine.",
        ),
    ],
)

WHAT_RUNS = Row(
    "What runs?",
    [
        Panel(
            "Bundles, by digest",
            "suffix:replicas",
            {"{{name}} {{digest}}": f"count by (name, digest) ({chosen('anytime_bundle_info')})"},
            "How many replicas answer from which bundle. Two rows outside a rollout: answers depend on the replica.",
            kind="table",
            runbook="AnytimeBundlesDiffer",
            columns=12,
            rows=4,
        ),
        Panel(
            "Replicas",
            "none",
            {
                "{{instance}} ready": chosen("anytime_ready"),
                "{{instance}} version {{version}}, Python {{python}}": chosen("anytime_build_info"),
            },
            "Each replica: 1 is ready; and what it is.",
            kind="table",
            runbook="AnytimeNotReady",
            columns=12,
            rows=4,
        ),
        Panel(
            "Reloads that failed",
            "suffix:in an hour",
            {
                "failed": f"sum(round(increase({chosen('anytime_reloads_total', FAILED, over='1h')})))"
            },
            "Of the last hour. A failed one leaves the bundle before at work; the log says why.",
            kind="stat",
            steps=NONE_IS_WELL,
            runbook="AnytimeReloadFailed",
            rows=4,
        ),
        Panel(
            "Other reloads",
            "suffix:in an hour",
            {
                "{{outcome}}": "sum by (outcome) "
                f"(round(increase({chosen('anytime_reloads_total', NOT_FAILED, over='1h')})))"
            },
            "Of the last hour: those after which another bundle answers, and those that found the same.",
            kind="stat",
            rows=4,
        ),
        Panel(
            "Processes that died",
            "suffix:in an hour",
            {"died": f"sum(round(increase({chosen('anytime_processes_died_total', over='1h')})))"},
            "Fronts and engines that died in an hour and were started again; the log says which. Without an engine all is refused.",
            kind="stat",
            steps=NONE_IS_WELL,
            runbook="AnytimeProcessesDie",
            rows=4,
        ),
    ],
)

DASHBOARDS = {
    "operator.json": dashboard(
        "anytime-operator",
        "Anytime: operation",
        "From whether deadlines are met to why they are not.",
        [
            ARE_DEADLINES_MET,
            WHAT_DO_CALLERS_GET,
            WHICH_MODEL,
            WHICH_REPLICA,
            WHY_QUEUE,
            WHY_MACHINE,
            WHO_ASKS,
            STREAMS,
            WHAT_RUNS,
        ],
    ),
    "model.json": dashboard(
        "anytime-model",
        "Anytime: accuracy",
        "How accurate the answers are, and whether the images are what the network knows.",
        ACCURACY,
    ),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for file, document in DASHBOARDS.items():
        (folder / file).write_text(render(document))
