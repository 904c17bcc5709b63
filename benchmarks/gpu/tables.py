"""What ``make gpu`` found, as a section of ``docs/gpu.md``."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Any

from benchmarks.documents import percent, table
from benchmarks.training import described

COMMAND = "make gpu IMAGES=DIR"
CHOICE_DEADLINE_MS = 5.0
HELD = 0.999  # in time: a deadline that is held

Figures = Mapping[str, Any]


def render(found: Figures) -> str:
    """Return the section; parts that were not measured are left away."""
    sections = [_head(found["conditions"])]
    sections += [part(found[name]) for name, part in _PARTS.items() if name in found]
    notes = {"Warnings": "warnings", "Failed": "failed", "Left out": "left_out"}
    sections += [f"{what}: {'; '.join(found[key])}." for what, key in notes.items() if found[key]]
    return "\n\n".join(sections) + "\n"


def _head(conditions: Figures) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in conditions["versions"].items())
    return f"""\
## {conditions["device"]}

`{COMMAND}` on {conditions["machine"]} ({conditions["system"]}; {versions}), commit {conditions["commit"]}. Bundle
`{conditions["bundle"]}` ({conditions["digest"]})."""


def _answers(largest: Mapping[str, float]) -> str:
    gaps = ", ".join(f"{name} {gap:.4f}" for name, gap in largest.items())
    return f"Largest difference of a probability from the CPU's, on noise, in full and padded batches: {gaps}."


def _runs(found: Figures, of: str = "") -> str:
    rows = [
        [
            cell["subnetwork"],
            str(cell["size"]),
            f"{cell['p50_ms']:.3f} / {cell['p99_ms']:.3f}",
            f"{1e3 * cell['size'] / cell['p50_ms']:.0f}",
            f"{cell['plain_ms']:.3f}",
            f"{cell['nhwc_ms']:.3f}",
            f"{cell['bare_ms']:.3f}",
            f"{cell['p50_ms'] / cell['bare_ms']:.2f}",
            f"{cell['operations_ms']:.4f}",
            f"{cell['bytes_ms']:.4f}",
        ]
        for cell in found["cells"]
    ]
    largest = max(cell["size"] for cell in found["cells"])
    sessions = ", ".join(f"{name} {mib:.0f}" for name, mib in found["session_mib"].items())
    answers = f"\n\n{_answers(found['answers'])}" if "answers" in found else ""
    return f"""\
### Runs{of}

In {found["precision"]}, {found["n"]} runs a cell, by turns with two plain sessions of the same file, one with `prefer_nhwc`, and with the bare
network; from a batch in host memory to probabilities there, the bare one without either copy. *Ratio*: to the bare one. *Operations* and
*weights*: what they would take at the rates measured in the same run, matrices multiplied at
{found["matrix_per_s"] / 1e12:.1f} TFLOP/s, memory copied at {found["bytes_per_s"] / 1e9:.0f} GB/s (read and written). After the runs: {found["clock_after"]}.
A session alone, after a batch of {largest}, takes {sessions} MiB.{answers}

{table(["subnetwork", "batch", "p50 / p99, ms", "images/s", "plain session, ms", "with NHWC, ms", "bare, ms", "ratio", "operations, ms", "weights, ms"], rows)}"""


def _pairs(cells: Sequence[Figures]) -> str:
    rows = [
        [
            cell["pair"],
            str(cell["size"]),
            f"{cell['apart_ms']:.3f}",
            f"{cell['together_ms']:.3f}",
            f"{cell['together_ms'] / cell['apart_ms']:.2f}",
        ]
        for cell in cells
    ]
    return f"""\
### Side by side

Medians, each subnetwork on a thread and a stream of its own; apart, the threads take turns. The server runs one after
the other; a ratio well under 1 says that it should not.

{table(["pair", "batch", "apart, ms", "together, ms", "ratio"], rows)}"""


def _training(found: Figures) -> str:
    return f"""\
### Training

```
{described(dict(found))}
```"""


def _serving(found: Figures) -> str:
    alone = [
        [
            point["system"],
            f"{point['deadline_ms']:g} ms",
            percent(point["in_time"]),
            percent(point["accuracy"]),
            _quantiles(point["answered_ms"]),
        ]
        for point in found["alone"]
    ]
    deadlines = [
        [
            f"{point['deadline_ms']:g} ms",
            str(point["rate"]),
            percent(point["in_time"]),
            percent(point["accuracy"]),
            _quantiles(point["answered_ms"]),
        ]
        for point in found["deadlines"]
    ]
    systems = list(dict.fromkeys(point["system"] for point in found["choices"]))
    rates = sorted({point["rate"] for point in found["choices"]})
    correct = {(p["system"], p["rate"]): p["correct_in_time"] for p in found["choices"]}
    choices = [
        [system, *(percent(correct.get((system, rate)), unit="") for rate in rates)]
        for system in systems
    ]
    return f"""\
### One request at a time

The server takes {found["memory_mib"]:.0f} MiB of the GPU.

{table(["", "deadline", "in time", "accuracy", "p50 / p99, ms"], alone)}

### Deadlines

{table(["deadline", "requests/s", "in time", "accuracy", "p50 / p99, ms"], deadlines)}

{_held(found["deadlines"])}

### Choices

Correct in time, %, of all requests, by requests a second; deadline {CHOICE_DEADLINE_MS:g} ms.

{table(["", *map(str, rates)], choices)}"""


_PARTS: dict[str, Callable[[Any], str]] = {
    "answers": _answers,
    "runs": _runs,
    "wide runs": partial(_runs, of=", an untrained wide network"),
    "pairs": _pairs,
    "training": _training,
    "serving": _serving,
}


def _quantiles(answered_ms: Mapping[str, float] | None) -> str:
    """Return p50 and p99; a dash where nothing was answered."""
    return f"{answered_ms['p50']:.2f} / {answered_ms['p99']:.2f}" if answered_ms else "–"


def _held(points: Sequence[Figures]) -> str:
    """Say up to which rate each deadline was held, and of what capacity: the most answers in time a second."""
    lines = []
    for deadline_ms, own in groupby(points, key=itemgetter("deadline_ms")):
        rising = list(own)
        held = [p["rate"] for p in takewhile(lambda p: p["in_time"] >= HELD, rising)]
        capacity = max(p["rate"] * p["in_time"] for p in rising)
        share = percent(held[-1] / capacity) if held else "0 %"
        lines.append(
            f"{deadline_ms:g} ms: {f'held up to {held[-1]}/s' if held else 'not held'}, {share} of the most that was "
            f"answered in time, {capacity:.0f}/s"
        )
    return f"In time for {percent(HELD)} or more: {'; '.join(lines)}." if lines else ""
