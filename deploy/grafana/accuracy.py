"""What the dashboard of accuracy shows."""

from panels import OF_MODEL, SUBNETWORK, Panel, Row, chosen, mean, quantiles, rate

SORTED = (
    "Early stops (stop_at_confidence) sort the images: the shallow subnetworks keep the easy ones and the "
    "deep ones get the hard, so that the former lie higher here, and the latter lower."
)
AGREES = 'verdict="agrees"'
AGREEMENT = (
    f"sum({rate('anytime_agreement_total', AGREES, over='1h')})"
    f" / sum({rate('anytime_agreement_total', over='1h')})"
)
SHORTFALL = (
    f"avg({chosen('release:anytime_labelled_accuracy:ratio_rate1h')}"
    f" - {chosen('release:anytime_labelled_expected_accuracy:ratio_rate1h')})"
)


def per_subnetwork(rule: str) -> str:
    """Return a recorded series of each subnetwork of each model, over all releases that are chosen."""
    return f"avg by (model, subnetwork) ({chosen(f'release_subnetwork:{rule}', SUBNETWORK)})"


IS_IT_RIGHT = Row(
    "Are the answers right?",
    [
        Panel(
            "Expected",
            "percentunit",
            {"expected": f"avg({chosen('release:anytime_expected_accuracy:ratio_rate5m')})"},
            "The validation accuracy of what answered in five minutes: what deadlines and load cost. It knows nothing of the images.",
            kind="stat",
            high=1,
            columns=6,
            rows=4,
        ),
        Panel(
            "Labelled less expected",
            "percentunit",
            {"labelled less expected": SHORTFALL},
            "Of the answers whose labels came in an hour. Around 0 production looks like the validation images; far under, the images or the network changed.",
            kind="stat",
            low=-1,
            high=1,
            steps=((None, "red"), (-0.05, "orange"), (-0.02, "green")),
            runbook="AnytimeAccuracyDropped",
            columns=6,
            rows=4,
        ),
        Panel(
            "Agree with the best",
            "percentunit",
            {"agree": AGREEMENT},
            "Of the answers that were compared, without labels; the best agrees with itself.",
            kind="stat",
            high=1,
            runbook="AnytimeAgreementDropped",
            columns=6,
            rows=4,
        ),
        Panel(
            "Confidence",
            "percentunit",
            {"mean": mean("anytime_confidence_ratio")},
            "Calibrated: far under Expected, the images are not what the network knows.",
            kind="stat",
            high=1,
            runbook="AnytimeConfidenceDropped",
            columns=6,
            rows=4,
        ),
        Panel(
            "Accuracy of what was answered",
            "percentunit",
            {
                "expected": f"avg({chosen('release:anytime_expected_accuracy:ratio_rate5m')})",
                "agrees with the best": AGREEMENT,
                "labelled": f"avg({chosen('release:anytime_labelled_accuracy:ratio_rate1h')})",
                "expected of those labelled": f"avg({chosen('release:anytime_labelled_expected_accuracy:ratio_rate1h')})",
            },
            "Labelled under expected of those labelled: the images or the network changed.",
            high=1,
            runbook="AnytimeAccuracyDropped",
            columns=12,
        ),
        Panel(
            "Mean confidence by subnetwork",
            "percentunit",
            {
                "{{model}} {{subnetwork}}": mean(
                    "anytime_confidence_ratio", SUBNETWORK, by=" by (model, subnetwork)"
                )
            },
            f"A mean under the subnetwork's accuracy means unfamiliar images. {SORTED}",
            high=1,
            runbook="AnytimeConfidenceDropped",
            columns=12,
        ),
    ],
)

WHICH_SUBNETWORK = Row(
    "Which subnetwork?",
    [
        Panel(
            "Labelled accuracy by subnetwork",
            "percentunit",
            {"{{model}} {{subnetwork}}": per_subnetwork("anytime_labelled_accuracy:ratio_rate1h")},
            SORTED,
            high=1,
        ),
        Panel(
            "Labelled less expected accuracy",
            "percentunit",
            {
                "{{model}} {{subnetwork}}": f"{per_subnetwork('anytime_labelled_accuracy:ratio_rate1h')} "
                f"- {per_subnetwork('anytime_accuracy:ratio')}"
            },
            f"Around 0 while production looks like the validation images. {SORTED}",
            low=-1,
            high=1,
        ),
        Panel(
            "Agreement with the best by subnetwork",
            "percentunit",
            {"{{model}} {{subnetwork}}": per_subnetwork("anytime_agreement:ratio_rate1h")},
            SORTED,
            high=1,
            runbook="AnytimeAgreementDropped",
        ),
        Panel(
            "Share of answers by subnetwork",
            "percentunit",
            {
                "{{model}} {{subnetwork}}": "sum by (model, subnetwork) "
                f"({rate('anytime_request_latency_seconds_count', SUBNETWORK)}) / on (model) group_left () "
                f"sum by (model) ({rate('anytime_request_latency_seconds_count', OF_MODEL)})"
            },
            "Of the model's answers: which there are to have at these deadlines and this load.",
            high=1,
            columns=12,
        ),
        Panel(
            "Accuracy and run latency",
            "none",
            {
                "{{model}} {{subnetwork}} accuracy": f"avg by (model, subnetwork) ({chosen('anytime_subnetwork_accuracy_ratio', SUBNETWORK)})",
                "{{model}} {{subnetwork}} ms": f"1e3 * avg by (model, subnetwork) ({chosen('anytime_predicted_run_latency_seconds', SUBNETWORK)})",
            },
            "The front that deadlines choose from; the latency is that of one image, now.",
            kind="table",
            columns=12,
        ),
    ],
)

WHICH_IMAGES = Row(
    "Which images?",
    [
        Panel(
            "Labels answered",
            "percentunit",
            {
                "{{model}} {{label}}": f"sum by (model, label) ({rate('anytime_predictions_total', OF_MODEL)}) "
                f"/ on (model) group_left () sum by (model) ({rate('anytime_predictions_total', OF_MODEL)})"
            },
            "A change of the mix is drift of the images, or of the network.",
            high=1,
        ),
        Panel(
            "Confidence, quantiles",
            "percentunit",
            quantiles("anytime_confidence_ratio", 0.05, 0.25, 0.5, of=SUBNETWORK),
            "A fall of the lowest alone: a part of the images is unfamiliar.",
            high=1,
            runbook="AnytimeConfidenceDropped",
        ),
        Panel(
            "Labels and comparisons that came",
            "reqps",
            {
                "labels {{outcome}}": f"sum by (outcome) ({rate('anytime_feedback_total')})",
                "comparisons": f"sum({rate('anytime_agreement_total')})",
            },
            "Without them the panels above say little; unknown or repeated labels are a caller's mistake.",
        ),
    ],
)

ACCURACY = [IS_IT_RIGHT, WHICH_SUBNETWORK, WHICH_IMAGES]
