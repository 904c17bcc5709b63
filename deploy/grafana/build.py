"""``python deploy/grafana/build.py``: writes the dashboards that Grafana is provisioned with.

They are described here and nowhere else; a test fails where ``dashboards/`` is not what this writes. Rows go from whether deadlines
are met to why they are not.
"""

import sys
from pathlib import Path

from accuracy import ACCURACY
from panels import SUBNETWORK, Panel, Row, buckets, chosen, dashboard, mean, quantiles, rate, render

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
            "none",
            {"burn rate": f"max({chosen('release:anytime_errors:ratio_rate1h')}) / 0.01"},
            "How many times faster than in 30 days the budget is spent. At 14.4 somebody is paged.",
            kind="stat",
            steps=BURN,
            runbook="AnytimeBudgetBurnsFast",
            columns=4,
            rows=4,
        ),
        Panel(
            "Requests",
            "reqps",
            {"requests": f"sum({rate('anytime_requests_total')})"},
            "Requests a second, of every outcome. None at all is a caller's or a proxy's matter.",
            kind="stat",
            columns=4,
            rows=4,
        ),
        Panel(
            "Replicas not ready",
            "none",
            {"not ready": f"count({chosen('up')}) - (sum({chosen('anytime_ready')}) or vector(0))"},
            "Replicas that Prometheus knows and that take no requests: gone, starting or draining.",
            kind="stat",
            steps=((None, "green"), (1.0, "orange"), (2.0, "red")),
            runbook="AnytimeNotReady",
            columns=4,
            rows=4,
        ),
        Panel(
            "Alerts",
            "none",
            {
                "alerts": 'count(ALERTS{alertname=~"Anytime.*",alertstate="firing",'
                'namespace=~"$namespace",release=~"$release"}) or vector(0)'
            },
            "Alerts that fire; which, the red marks in the panels below say.",
            kind="stat",
            steps=((None, "green"), (1.0, "red")),
            columns=4,
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
                "{{subnetwork}}": "sum by (subnetwork) "
                f"({rate('anytime_request_latency_seconds_count', SUBNETWORK)})"
            },
            "Load shows here first: answers come from shallower subnetworks before they come late.",
        ),
        Panel(
            "Expected accuracy",
            "percentunit",
            {"expected": f"avg({chosen('release:anytime_expected_accuracy:ratio_rate5m')})"},
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

WHY_QUEUE = Row(
    "Why: is there too much to do?",
    [
        Panel(
            "Queue",
            "short",
            {"{{instance}}": chosen("anytime_queue_depth")},
            "Requests that wait for a run. One replica alone: it is slow, or the proxy sends it too much. All: add replicas.",
            runbook="AnytimeRefuses",
        ),
        Panel(
            "Saturation",
            "percentunit",
            {
                "device {{instance}}": f"sum by (instance) ({rate('anytime_run_latency_seconds_sum')})",
                "cores {{instance}}": rate("process_cpu_seconds_total"),
            },
            "The share of time that the device runs: at 100 % there is no more to have. Cores in use are 100 % each.",
        ),
        Panel(
            "Slack at dispatch",
            "s",
            buckets("anytime_slack_seconds", SUBNETWORK),
            "What deadlines leave beyond the predicted run latency when a run starts. A band at 0 has nothing to spare; under 0 "
            "it was given up.",
            kind="heatmap",
            low=None,
        ),
        Panel(
            "Time in the queue",
            "s",
            quantiles("anytime_queue_time_seconds", 0.5, 0.95, 0.99),
            "Arrival to the start of the run, decoding included.",
        ),
        Panel(
            "Slack, quantiles",
            "s",
            quantiles("anytime_slack_seconds", 0.05, 0.5, of=SUBNETWORK),
            "The 5 % with the least room, and the middle.",
            low=None,
        ),
        Panel(
            "Requests a run",
            "none",
            {"mean": mean("anytime_batch_size")},
            "Over 1 requests wait for each other and run together, which is cheaper for each.",
        ),
    ],
)

WHY_MACHINE = Row(
    "Why: is the machine slower than it was?",
    [
        Panel(
            "Run latency over prediction",
            "percentunit",
            quantiles("anytime_run_over_prediction_ratio", 0.5, 0.95, of=SUBNETWORK),
            "98 % of the runs should lie under 100 %. Above: something comes and goes faster than predictions follow.",
            steps=((None, "green"), (1.0, "red")),
            runbook="AnytimePredictionsOff",
        ),
        Panel(
            "Slowdown since the start",
            "none",
            {"{{instance}} {{device}}": chosen("anytime_slowdown_ratio")},
            "Run latency now over that at warm-up. 2 is a neighbour, a limit, or a falling clock frequency.",
            steps=((None, "green"), (2.0, "red")),
            runbook="AnytimeSlow",
        ),
        Panel(
            "Cost of a request outside its run",
            "s",
            {"decode": mean("anytime_decode_seconds"), "reply": mean("anytime_reply_seconds")},
            "Large images cost more to decode than to classify. Replies of milliseconds wait for a front: more fronts (ANYTIME_FRONTS) or cores.",
        ),
        Panel(
            "Memory",
            "bytes",
            {
                "{{instance}}": chosen("process_resident_memory_bytes"),
                "GPU of {{instance}}, {{state}}": chosen("anytime_gpu_memory_bytes"),
            },
            "What grows without end will be killed (exit code 137); a reload holds two bundles for a while.",
            runbook="AnytimeGpuMemoryShort",
        ),
        Panel(
            "Connections",
            "short",
            {
                "open, {{instance}}": chosen("anytime_connections"),
                "ended a second, {{reason}}": "sum by (reason) "
                f"({rate('anytime_connections_ended_total')})",
            },
            "Connections open, and those that the server ended, by what their clients did or left undone.",
        ),
        Panel(
            "Log lines dropped",
            "short",
            {
                "{{instance}}": f"increase({chosen('anytime_log_lines_dropped_total', over='$__rate_interval')})"
            },
            "Over 0 nobody reads the log, or its disk is full; requests do not wait for it.",
            runbook="AnytimeLogIncomplete",
        ),
    ],
)

STREAMS = Row(
    "Streams",
    [
        Panel(
            "First answer of a stream",
            "s",
            quantiles("anytime_first_answer_seconds", 0.5, 0.99),
            "Arrival to the first answer, which better ones follow.",
            columns=12,
        ),
        Panel(
            "Refinements",
            "reqps",
            {"{{outcome}}": f"sum by (outcome) ({rate('anytime_refinements_total')})"},
            "Runs for a better answer than the one in hand; those unused came too late.",
            columns=12,
        ),
    ],
)

WHAT_RUNS = Row(
    "What runs?",
    [
        Panel(
            "Bundles, by digest",
            "none",
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
            "none",
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
            "none",
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
            "none",
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
        [ARE_DEADLINES_MET, WHAT_DO_CALLERS_GET, WHY_QUEUE, WHY_MACHINE, STREAMS, WHAT_RUNS],
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
