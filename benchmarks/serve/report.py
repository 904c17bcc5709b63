"""Tables of what ``benchmarks.serve`` found: the section of ``docs/results.md`` about serving."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.documents import DOCS, percent, spread, table, write_section
from benchmarks.serve.plots import PLOTS, SHOWN, Curves, Point, draw, file_name, mean_of

COMMAND = "python -m benchmarks.serve --bundle model/pretrained/cifar10 --images DIR"


def publish(found: Mapping[str, Any], docs: Path) -> None:
    """Write tables and plots."""
    write_tables(found, docs)
    own, peers = curves_of(found.get("sweep", [])), curves_of(found.get("peers", []))
    if own:
        draw("serving", own, docs)
    if peers:
        ours = curves_of(point["ours"] for point in found["peers"])
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
    if "two_cores" in found:
        parts.append(_two_cores(found["two_cores"]))
    if "deadlines" in found:
        parts.append(_deadlines(found["deadlines"]))
    if "resident_mib" in found:
        parts.append(_memory(found["resident_mib"]))
    if "capacity_per_s" in found:
        parts.append(_capacity(found))
    if own:
        parts += [_sweep(own), _images("serving"), _against_fixed(own)]
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
        f"The server has one core and the load generator another; one server, Poisson arrivals, latency from the intended send time, deadline {conditions['deadline_ms']:g} ms. "
        f"The peak is the lowest rate at which 95 % of the most is answered in time that is at any: {modes['peak_per_s']:.0f} requests a second (rates a quarter apart, `on_miss=answer`, 512 connections). A round is a turn of {modes['turn_s']:g} s at that rate, then one with each value of `on_miss` at the rate of the row, with the same images; before each turn a quarter of a second of the same is not counted, and every other round is in the opposite order. "
        "*Of the peak*: requests in time in all turns, of those in the turns at the peak beside them, and its standard error over the rounds; then the share of all offered that was in time, the late among the answers, and the latest answer. "
        "Apart: `refuse` less `answer`, in points of what was in time, the mean of the rounds and its standard error. Rounds in which the generator lagged "
        "are thrown out, and the point is measured again where that is more than half of them.\n\n"
    )
    cells: dict[tuple[int, float], dict[str, dict[int, Point]]] = {}
    for point in modes["points"]:
        cell = cells.setdefault((point["connections"], point["times"]), {})
        cell.setdefault(point["mode"], {})[point["round"]] = point
    rows = []
    for (connections, times), cell in sorted(cells.items()):
        peak, answer, refuse = (list(cell[mode].values()) for mode in ("peak", "answer", "refuse"))
        modes_of = _mode(answer, peak), _mode(refuse, peak), _apart(answer, refuse, "in_time")
        offered = f"{times:g} × ({times * modes['peak_per_s']:.0f})"
        rows.append([str(connections), offered, *modes_of])
    header = ["connections", "offered/s", "`on_miss=answer`", "`on_miss=refuse`", "apart"]
    write_section(docs / "results.md", "modes", text + table(header, rows))


def _mode(points: Sequence[Point], peak: Sequence[Point]) -> str:
    met, most = ([each["in_time"] * each["offered"] for each in of] for of in (points, peak))
    in_time, late = (
        sum(each["outcomes"].get(how, 0) for each in points) for how in ("in_time", "late")
    )
    latest_ms = [each["answered_ms"]["max"] for each in points if each["answered_ms"]]
    share = percent(mean(each["in_time"] for each in points))
    text = f"{share} in time, {percent(late / max(in_time + late, 1))} late"
    if latest_ms:
        text += f", latest {max(latest_ms):.0f} ms"
    if not sum(most):
        return text
    of_peak = sum(met) / sum(most)
    left = [ours - of_peak * theirs for ours, theirs in zip(met, most, strict=True)]
    error = stdev(left) / len(left) ** 0.5 / mean(most) if len(left) > 1 else float("nan")
    return f"**{of_peak:.2f}** ± {error:.2f} of the peak; {text}"


def _apart(first: Sequence[Point], second: Sequence[Point], key: str) -> str:
    """Return the mean of the differences, in points, its standard error and their number."""
    apart = [100 * (b[key] - a[key]) for a, b in zip(first, second, strict=True)]
    if len(apart) < 2:
        return f"{mean(apart):+.1f} (1)"
    return f"{mean(apart):+.1f} ± {stdev(apart) / len(apart) ** 0.5:.1f} ({len(apart)})"


def _conditions(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return (
        f"`{COMMAND}` on {conditions['machine']} ({conditions['system']}; {versions}), commit "
        f"{conditions['commit']}, {conditions['started']}. Bundle `{conditions['bundle']}` ({conditions['digest']}). "
        "The server has one core and the load generator another. Open loop, Poisson arrivals, latency from the "
        f"intended send time; {conditions['seconds']:g} s a point after 0.5 s that are not counted, or turns of 0.5 s; "
        "what was sent while the generator itself lagged is thrown out, except the overload: ten times the capacity is "
        "more than one core can send on time. Other servers run the same files in the precision that ours has found to be the faster one here. Requests carry JPEG files of labelled test images, so that accuracy is "
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


def _two_cores(points: Sequence[Mapping[str, Any]]) -> str:
    """Compare the answers a second on one core and on two with those of the bare handler on one."""
    cells: dict[tuple[str, str, int], list[float]] = {}
    for point in points:
        key = (point["server"], point["cores"], point["connections"])
        cells.setdefault(key, []).append(point["per_s"])
    rows = []
    for (server, cores, connections), per_s in cells.items():
        floor = cells["bare handler", "one core", connections]
        ratios = [own / other for own, other in zip(per_s, floor, strict=True)]
        rows.append(
            [server, cores, str(connections), spread(per_s, "{:.0f}".format), spread(ratios)]
        )
    header = ["", "server's cores", "connections", "answers/s", "of the bare handler's on one core"]
    return (
        "The same in a closed loop of `wrk` (one thread, turns of a second, all by turns), which has the other core, or both with the "
        f"server; {len(per_s)} rounds:\n\n" + table(header, rows)
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
    rounds = [len(points) for points in curves["anytime"].values()]
    parts = [
        "### The free choice and each subnetwork, against the rate\n\n"
        f"One server; the free choice and each subnetwork alone (`subnetwork=…`) by turns of half a second with the same images, each behind a quarter of a second that is not counted and in both orders, {min(rounds)} to {max(rounds)} rounds a rate; means."
    ]
    for key, title in SHOWN:
        parts.append(f"{title.capitalize()}, %:\n\n" + _table_of(curves, rates, key))
    return "\n\n".join(parts)


def _against_fixed(curves: Curves) -> str:
    """Compare the free choice with the best subnetwork at each rate, known only afterwards."""
    rows = []
    for rate, ours in sorted(curves["anytime"].items()):
        means = {
            name: mean(each["correct_in_time"] for each in curve[rate])
            for name, curve in curves.items()
            if name != "anytime"
        }
        best = max(means, key=lambda name: means[name])
        free = percent(mean(each["correct_in_time"] for each in ours))
        apart = _apart(curves[best][rate], ours, "correct_in_time")
        rows.append([f"{rate:.0f}", free, percent(means[best]), best, apart])
    header = ["rate/s", "free choice", "best fixed choice", "which", "apart"]
    return (
        "Correct in time, the free choice and the best subnetwork at each rate, known only afterwards. Apart: in points, the mean of the rounds, its standard error, and their number:\n\n"
        + table(header, rows)
    )


def _memory(resident_mib: Mapping[str, float]) -> str:
    """Say what each kind of process takes, with the libraries that they share in each."""
    each = ", ".join(f"{name} {mib:.0f}" for name, mib in sorted(resident_mib.items()))
    return f"Memory behind that, resident, MiB: {each}."


def _peers(curves: Curves) -> str:
    rows = []
    for name, curve in curves.items():
        first = _all(curve)[0]
        held = [rate for rate, points in curve.items() if mean_of(points, "in_time") >= 0.99]
        most, at = max(
            (mean_of(points, "correct_in_time") * rate, rate) for rate, points in curve.items()
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
        + "\n\nCorrect in time, %, and in brackets this server's, measured next to it at the same rate:\n\n"
        + _beside(curves)
    )


def _beside(curves: Curves) -> str:
    rates = sorted({rate for curve in curves.values() for rate in curve})
    rows = [
        [name, *(_both(curve.get(rate, [])) for rate in rates)] for name, curve in curves.items()
    ]
    return table(["rate/s", *(f"{rate:.0f}" for rate in rates)], rows)


def _both(points: Sequence[Point]) -> str:
    theirs, ours = (
        mean_of(each, "correct_in_time") for each in (points, [point["ours"] for point in points])
    )
    return f"{percent(theirs, '')} ({percent(ours, '')})" if points else "–"


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
        ["nine in ten in time again after", _recovery(after["recovered_s"])],
        ["generator behind", "yes" if during["lagging"] else "no"],
    ]
    return (
        "### Ten times the capacity\n\n"
        + table(["", "anytime"], rows)
        + "\n\n`unsent`: all of the generator's connections were busy until the request's deadline; the server never "
        "saw it."
    )


def _recovery(recovered_s: float | None) -> str:
    return "not within it" if recovered_s is None else f"{recovered_s:.2f} s"


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
        [name, *(percent(mean_of(curve.get(rate, []), key), "") for rate in rates)]
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
