"""What the dashboard of operation shows of causes: the queue, the machine, and streams."""

from panels import OF_MODEL, SUBNETWORK, Panel, Row, buckets, chosen, mean, quantiles, rate

INVALID = 'outcome="invalid"'

WHY_QUEUE = Row(
    "Why: is there too much to do?",
    [
        Panel(
            "Queue",
            "suffix:requests",
            {
                "{{instance}} {{model}}": "sum by (instance, model) "
                f"({rate('anytime_queue_time_seconds_sum', OF_MODEL)})"
            },
            "How many requests wait for their run in the mean, decoding included (those answered a second times their time in the queue). "
            "What is refused does not wait. One replica alone: it is slow, or the proxy sends it too much. All: add replicas.",
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
            "suffix:requests",
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
            "suffix:times",
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
            "suffix:open",
            {"{{instance}}": chosen("anytime_connections")},
            "Connections open. Many more than before with no more requests: clients that do not keep theirs, or hold them to harm.",
        ),
        Panel(
            "Log lines dropped",
            "suffix:lines",
            {
                "{{instance}}": f"increase({chosen('anytime_log_lines_dropped_total', over='$__rate_interval')})"
            },
            "Over 0 nobody reads the log, or its disk is full; requests do not wait for it.",
            runbook="AnytimeLogIncomplete",
        ),
    ],
)

WHO_ASKS = Row(
    "Why: who asks what?",
    [
        Panel(
            "Invalid requests",
            "reqps",
            {"{{model}}": f"sum by (model) ({rate('anytime_requests_total', INVALID)})"},
            "No image, a broken one, or a parameter that is wrong: a caller's mistake, or somebody's probing. They spend no budget, only time.",
        ),
        Panel(
            "Connections that the server ended",
            "suffix:connections/s",
            {"{{reason}}": f"sum by (reason) ({rate('anytime_connections_ended_total')})"},
            "A second, by what their clients did or left undone. slow_head, slow_body, unread or malformed in numbers: somebody holds "
            "connections, or speaks no HTTP. Addresses are in the proxy's log.",
        ),
        Panel(
            "Keys refused",
            "reqps",
            {"{{reason}}": f"sum by (reason) ({rate('anytime_keys_refused_total')})"},
            "Requests refused by their key. unknown or missing: somebody tries; rate or concurrency: a caller has more to ask than its key allows.",
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
