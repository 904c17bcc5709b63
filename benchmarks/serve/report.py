"""Tables of what ``benchmarks.serve`` found: the section of ``docs/results.md`` about serving."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from benchmarks.documents import DOCS, percent, spread, table, write_section
from benchmarks.serve.plots import PLOTS, SHOWN, Curves, Point, draw, file_name, median_of

COMMAND = "python -m benchmarks.serve --bundle model/pretrained/cifar10 --images DIR"


def publish(found: Mapping[str, Any], docs: Path) -> None:
    """Write tables and plots."""
    write_tables(found, docs)
    own, peers = curves_of(found.get("sweep", [])), curves_of(found.get("peers", []))
    if own:
        draw("serving", own, docs)
    if peers:
        ours = {name: curve for name, curve in own.items() if name == "anytime"}
        draw("peers", ours | peers, docs)


def write_tables(found: Mapping[str, Any], docs: Path) -> None:
    """Put the section in its place in ``results.md``, between two marks.

    Args:
        found: by part; parts that are missing are left out.
        docs: the folder of documents.
    """
    own, peers = curves_of(found.get("sweep", [])), curves_of(found.get("peers", []))
    parts = ["## Serving", _conditions(found["conditions"])]
    if "floor" in found:
        parts.append(_floor(found["floor"]))
    if "deadlines" in found:
        parts.append(_deadlines(found["deadlines"]))
    if "capacity_per_s" in found:
        parts.append(_capacity(found))
    if own:
        parts += [_sweep(own), _images("serving"), _against_best(own, peers)]
    if peers:
        parts += [_peers(peers), _images("peers")]
    if "overload" in found:
        parts.append(_overload(found["overload"]))
    for failure in found.get("failures", []):
        parts.append("Not measured: " + failure.splitlines()[0])
    write_section(docs / "results.md", "serving", "\n\n".join(parts))


def write_modes(found: Mapping[str, Any], docs: Path) -> None:
    """Put the comparison of the values of ``on_miss`` in its place in ``results.md``."""
    modes, conditions = found["modes"], found["conditions"]
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    text = (
        f"## Late answers or refusals past the capacity\n\n`{COMMAND} --parts modes` on "
        f"{conditions['machine']} ({conditions['system']}; {versions}), commit {conditions['commit']}, {conditions['started']}. "
        "The server has one core and the load generator another; both values of `on_miss` by turns on one server, "
        f"{modes['turn_s']:g} s each, Poisson arrivals, latency from the intended send time, deadline {conditions['deadline_ms']:g} ms. In time of all offered, median and range of the turns; then the latest answer "
        "of all of them. Apart: `refuse` less `answer`, in points, the mean of the pairs and its standard error. Pairs in which the generator lagged "
        "are thrown out, and the point is measured again where that is more than half of them.\n\n"
    )
    cells: dict[tuple[int, float], dict[str, dict[int, Point]]] = {}
    for point in modes["points"]:
        cell = cells.setdefault((point["connections"], point["rate"]), {})
        cell.setdefault(point["on_miss"], {})[point["pair"]] = point
    rows = []
    for (connections, rate), cell in sorted(cells.items()):
        answer, refuse = cell.get("answer", {}), cell.get("refuse", {})
        pairs = _mode(answer), _mode(refuse), _apart(answer, refuse)
        rows.append([str(connections), f"{rate:g}", *pairs])
    header = ["connections", "offered/s", "`on_miss=answer`", "`on_miss=refuse`", "apart"]
    write_section(docs / "results.md", "modes", text + table(header, rows))


def _mode(by_pair: Mapping[int, Point]) -> str:
    points = list(by_pair.values())
    if not points:
        return "–"
    in_time = spread([point["in_time"] for point in points], percent)
    text = f"{in_time}, n = {sum(point['offered'] for point in points)}"
    latest_ms = [point["answered_ms"]["max"] for point in points if point["answered_ms"]]
    return f"{text}; latest {max(latest_ms):.0f} ms" if latest_ms else text


def _apart(answer: Mapping[int, Point], refuse: Mapping[int, Point]) -> str:
    pairs = sorted(answer.keys() & refuse.keys())
    apart = [100 * (refuse[pair]["in_time"] - answer[pair]["in_time"]) for pair in pairs]
    if len(apart) < 2:
        return "–"
    return f"{mean(apart):+.1f} ± {stdev(apart) / len(apart) ** 0.5:.1f} ({len(apart)})"


def _conditions(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return (
        f"`{COMMAND}` on {conditions['machine']} ({conditions['system']}; {versions}), commit "
        f"{conditions['commit']}, {conditions['started']}. Bundle `{conditions['bundle']}` ({conditions['digest']}). "
        "The server has one core and the load generator another. Open loop, Poisson arrivals, latency from the "
        f"intended send time; {conditions['seconds']:g} s a point and seed after 0.5 s that are not counted; "
        "runs in which the generator itself lagged are thrown out, except the overload: ten times the capacity is "
        "more than one core can send on time. Other servers run the same files in the precision that ours keeps here (int8). Requests carry JPEG files of labelled test images, so that accuracy is "
        "that of the answers given. All fractions are of the requests offered; the "
        f"deadline is {conditions['deadline_ms']:g} ms, and late answers are refused (`on_miss=refuse`)."
    )


def _floor(floor: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Compare with the bare handler: medians of as many rounds, both servers asked by turns."""
    rows = []
    for what, key, text in (
        ("unloaded p50 (ms)", "p50_ms", "{:.2f}".format),
        ("answers/s at saturation", "per_s", "{:.0f}".format),
    ):
        ours, bare = floor[key].values()
        ratios = [a / b for a, b in zip(ours, bare, strict=True)]
        rows.append(
            [what, spread(ours, text), spread(bare, text), spread(ratios), str(len(ratios))]
        )
    return "### Against a bare handler, the shallowest subnetwork\n\n" + table(
        ["", "`/classify`", "bare handler", "ratio", "rounds"], rows
    )


def _deadlines(points: Sequence[Point]) -> str:
    rows = [
        [
            f"{p['deadline_ms']:g} ms",
            str(p["offered"]),
            percent(p["in_time"]),
            percent(p["accuracy"]),
            f"{p['answered_ms']['p50']:.2f}",
            f"{p['answered_ms']['p99']:.2f}",
            _mix(p),
        ]
        for p in points
    ]
    return "### One request at a time\n\n" + table(
        ["deadline", "n", "in time", "accuracy", "p50 (ms)", "p99 (ms)", "subnetworks"], rows
    )


def _capacity(found: Mapping[str, Any]) -> str:
    capacity, points = found["capacity_per_s"], found.get("at_85", [])
    text = (
        "### Near capacity\n\n"
        f"The shallowest subnetwork alone holds 99 % in time up to {capacity:.0f}/s (searched to 5 %)."
    )
    if points:
        in_time = [point["in_time"] for point in points]
        text += (
            f" `anytime` at 85 % of that, {points[0]['rate']:.0f}/s: {spread(in_time, percent)} in time, "
            f"{spread([point['accuracy'] for point in points], percent)} accuracy over {len(points)} seeds."
        )
    return text


def _sweep(curves: Curves) -> str:
    rates = sorted({rate for curve in curves.values() for rate in curve})
    seeds = max(len(points) for curve in curves.values() for points in curve.values())
    parts = [f"### Policies against rate (n ≤ {seeds} seeds a point, median)"]
    for key, title in SHOWN:
        parts.append(f"{title.capitalize()}, %:\n\n" + _table_of(curves, rates, key))
    return "\n\n".join(parts)


def _against_best(own: Curves, peers: Curves) -> str:
    """Compare ours with the best of the others at each rate."""
    others = {name: curve for name, curve in {**own, **peers}.items() if name != "anytime"}
    rows = []
    for rate, points in sorted(own["anytime"].items()):
        ours = [point["correct_in_time"] for point in points]
        best, name = max(
            (
                (median_of(curve[rate], "correct_in_time"), name)
                for name, curve in others.items()
                if rate in curve
            ),
            default=(0.0, "–"),
        )
        rows.append(
            [
                f"{rate:.0f}",
                spread(ours, percent),
                percent(best),
                name,
                f"{100 * (median(ours) - best):+.1f}",
            ]
        )
    return (
        "Correct in time, `anytime` (median, range) and the best of all others at each rate:\n\n"
        + table(["rate/s", "anytime", "best other", "which", "difference"], rows)
    )


def _peers(curves: Curves) -> str:
    rows = []
    for name, curve in curves.items():
        first = _all(curve)[0]
        held = [rate for rate, points in curve.items() if median_of(points, "in_time") >= 0.99]
        most, at = max(
            (median_of(points, "correct_in_time") * rate, rate) for rate, points in curve.items()
        )
        latency = first["answered_ms"] or {"p50": float("nan"), "p99": float("nan")}
        rows.append(
            [
                name,
                f"{latency['p50']:.1f} / {latency['p99']:.1f}",
                f"{max(held):.0f}" if held else "none",
                f"{most:.0f} (at {at:.0f})",
                f"{max(p['memory_mib'] for p in _all(curve))}",
            ]
        )
    header = ["", "p50 / p99 at the lowest rate (ms)", "highest rate with 99 % in time"]
    return (
        "### Other servers on the same ONNX files\n\n"
        + table([*header, "most correct answers in time a second", "memory (MiB)"], rows)
        + "\n\nCorrect in time, %:\n\n"
        + _table_of(
            curves, sorted({rate for c in curves.values() for rate in c}), "correct_in_time"
        )
    )


def _overload(overload: Mapping[str, Any]) -> str:
    during, after = overload["during"], overload["after"]
    memory, latency = overload["memory_mib"], during["answered_ms"] or {}
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(during["outcomes"].items()))
    rows = [
        [
            "offered",
            f"{overload['rate']:.0f}/s for {overload['seconds']:g} s: {during['offered']} requests",
        ],
        ["how they ended", outcomes],
        ["answers, p50 / p99 (ms)", f"{latency.get('p50', 0):.1f} / {latency.get('p99', 0):.1f}"],
        ["memory, first / largest / last (MiB)", f"{memory[0]} / {max(memory)} / {memory[-1]}"],
        ["nine in ten in time again after", f"{after['recovered_s']:.2f} s"],
        ["generator behind", "yes" if during["lagging"] else "no"],
    ]
    return (
        "### Ten times the capacity\n\n"
        + table(["", "anytime"], rows)
        + "\n\n`unsent`: all of the generator's connections were busy until the request's deadline; the server never "
        "saw it."
    )


def _images(name: str) -> str:
    return "\n".join(
        f"![{title}, against the rate]({PLOTS}/{file_name(name, key)})" for key, title in SHOWN
    )


def curves_of(points: Iterable[Point]) -> dict[str, dict[float, list[Point]]]:
    """Sort points by system and rate."""
    curves: dict[str, dict[float, list[Point]]] = {}
    for point in points:
        curves.setdefault(point["system"], {}).setdefault(point["rate"], []).append(point)
    return curves


def _all(curve: Mapping[float, Sequence[Point]]) -> list[Point]:
    return [point for _, points in sorted(curve.items()) for point in points]


def _table_of(curves: Curves, rates: Sequence[float], key: str) -> str:
    rows = [
        [name, *(percent(median_of(curve.get(rate, []), key), "") for rate in rates)]
        for name, curve in curves.items()
    ]
    return table(["rate/s", *(f"{rate:.0f}" for rate in rates)], rows)


def _mix(point: Point) -> str:
    total = sum(point["subnetworks"].values())
    shares = sorted(point["subnetworks"].items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in shares[:3])


def main() -> None:
    """Write the report again from what an earlier run found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.report", description=__doc__)
    parser.add_argument("found", type=Path, help="serving.json of benchmarks.serve")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    publish(json.loads(options.found.read_text()), options.docs)


if __name__ == "__main__":
    main()
