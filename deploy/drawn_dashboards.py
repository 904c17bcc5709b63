"""The dashboards, with windows of seconds, and drawn as Grafana places them from what a Prometheus holds."""

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

DASHBOARDS = Path(__file__).parent / "grafana" / "dashboards"
WINDOW_S = 20
STEP_S = 1.0
UNITS = {  # Grafana's, by a factor and what is drawn; its others are named, as "suffix:requests"
    "s": (1e3, " ms"),
    "bytes": (2**-20, " MiB"),
    "reqps": (1.0, " /s"),
    "percentunit": (100.0, " %"),
}
COLOURS = {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a", "text": "#44546a"}
MARKS = {
    "Reloads": "tab:blue",
    "Starts": "tab:purple",
    "Deaths": "tab:orange",
    "Alerts": "tab:red",
}
LEGEND = (
    "Seconds since the start of the server. Dotted: a reload (blue), a start (purple), a process that died (orange), an alert "
    "that begins (red). "
    "Windows of minutes and hours are shortened to seconds, and numbers in colour are the last ones. Lines that stay at 0 are not named."
)
EDGES = 12  # of a heat map that are named

Series = list[tuple[float, float]]  # seconds and value


def shortened(text: str) -> str:
    """Return rules or a query of all releases, whose windows are seconds and whose alerts do not wait."""
    text = text.replace("$__rate_interval", f"{WINDOW_S}s")
    text = re.sub(r"\$(namespace|release|model|subnetwork)\b", ".*", text)
    text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW_S}s]", text)
    return re.sub(r"for: \d+m", "for: 0s", text)


def panels() -> list[dict[str, Any]]:
    """Return every panel of every dashboard, with the dashboard's file name as ``dashboard``."""
    return [
        panel | {"dashboard": path.stem}
        for path in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] != "row"
    ]


def draw(api: httpx.Client, started_at: float, folder: Path, ended_at: float | None = None) -> None:
    """Draw each dashboard from the data since an instant, until another or now."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = _Drawing(api, started_at, ended_at or time.time())
    for path in sorted(DASHBOARDS.glob("*.json")):
        drawing.draw(json.loads(path.read_text()), folder / f"dashboard-{path.stem}.png")


class _Drawing:
    """What Prometheus holds of a span of time, as pictures."""

    def __init__(self, api: httpx.Client, started_at: float, ended_at: float) -> None:
        self._api = api
        self._started_at, self._ended_at = started_at, ended_at

    def draw(self, dashboard: dict[str, Any], file: Path) -> None:
        """Draw a dashboard."""
        from matplotlib import pyplot as plt

        places = [panel["gridPos"] for panel in dashboard["panels"]]
        rows = max(place["y"] + place["h"] for place in places)
        figure = plt.figure(figsize=(19, 0.48 * rows))
        figure.text(0.03, 0.1 / rows, LEGEND, fontsize=9)
        grid = figure.add_gridspec(
            rows,
            24,
            left=0.03,
            right=0.99,
            top=1 - 0.4 / rows,
            bottom=1.0 / rows,
            hspace=4.0,
            wspace=1.6,
        )
        marks = {
            each["name"]: list(self._found([each | {"legendFormat": each["titleFormat"]}]))
            for each in dashboard["annotations"]["list"]
        }
        for panel, place in zip(dashboard["panels"], places, strict=True):
            axis = figure.add_subplot(
                grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]]
            )
            if panel["type"] == "row":
                axis.axis("off")
                axis.text(0, 0, panel["title"], fontsize=14, weight="bold", va="bottom")
                continue
            _, unit = _scale_and_unit(panel)
            has_axis = panel["type"] != "stat"  # which tells its unit beside the number
            title = f"{panel['title']} ({unit.strip()})" if unit and has_axis else panel["title"]
            axis.set_title(title, fontsize=9, loc="left")
            getattr(self, f"_{panel['type']}")(axis, panel)
            if panel["type"] in ("timeseries", "heatmap"):
                axis.set_xlim(0, self._ended_at - self._started_at)
                axis.tick_params(labelsize=7, pad=1)
                self._mark(axis, marks)
        figure.savefig(file, dpi=80)
        plt.close(figure)

    def _found(self, targets: list[dict[str, Any]]) -> Iterator[tuple[str, Series]]:
        """Yield legend and points of what is asked for."""
        for target in targets:
            span = {"start": self._started_at, "end": self._ended_at, "step": STEP_S}
            query = {"query": shortened(target["expr"]), **span}
            for series in self._api.get("/query_range", params=query).json()["data"]["result"]:
                legend = re.sub(
                    r"\{\{(\w+)\}\}",
                    lambda match, metric=series["metric"]: metric.get(match[1], "")[:26],
                    target["legendFormat"],
                )
                points = [(float(t) - self._started_at, float(v)) for t, v in series["values"]]
                yield legend, points

    def _found_last(self, targets: list[dict[str, Any]]) -> list[tuple[str, float]]:
        """Return legend and value of what there was in the end."""
        end_at = self._ended_at - self._started_at - STEP_S
        return [
            (legend, points[-1][1])
            for legend, points in self._found(targets)
            if points[-1][0] >= end_at
        ]

    def _mark(self, axis: Any, marks: dict[str, list[tuple[str, Series]]]) -> None:
        for name, events in marks.items():
            for begin in {points[0][0] for _, points in events}:
                axis.axvline(begin, color=MARKS[name], linestyle=":", linewidth=1)

    def _timeseries(self, axis: Any, panel: dict[str, Any]) -> None:
        scale, unit = _scale_and_unit(panel)
        for legend, points in self._found(panel["targets"]):
            values = [scale * value for _, value in points]
            axis.plot([at for at, _ in points], values, label=legend if any(values) else None)
        _limit(axis, panel, scale, unit)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=6, loc="best")

    def _heatmap(self, axis: Any, panel: dict[str, Any]) -> None:
        from matplotlib.colors import PowerNorm

        scale, _ = _scale_and_unit(panel)
        by_edge = sorted(
            (float(edge), dict(points)) for edge, points in self._found(panel["targets"])
        )
        ends = sorted({at for _, points in by_edge for at in points})
        cells = [
            [max(above.get(at, 0.0) - below.get(at, 0.0), 0.0) for at in ends]
            for (_, below), (_, above) in pairwise([(0.0, {}), *by_edge])
        ]
        used = [at for at, row in enumerate(cells) if any(row)]
        if used:
            cells = cells[used[0] : used[-1] + 1]
            edges = [f"{scale * edge:g}" for edge, _ in by_edge[used[0] : used[-1] + 1]]
            axis.pcolormesh(
                [*ends, ends[-1] + STEP_S],
                range(len(cells) + 1),
                cells,
                cmap="Oranges",
                norm=PowerNorm(0.4),
            )
            every = 1 + len(edges) // EDGES
            axis.set_yticks(range(1, len(edges) + 1, every), edges[::every])

    def _stat(self, axis: Any, panel: dict[str, Any]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        scale, unit = _scale_and_unit(panel)
        found = self._found_last(panel["targets"])
        colour = "text"
        for step in defaults["thresholds"]["steps"]:
            if found and (step["value"] is None or found[-1][1] >= step["value"]):
                colour = step["color"]
        axis.set_facecolor(COLOURS[colour])
        axis.set_xticks([])
        axis.set_yticks([])
        is_named = panel["options"]["textMode"] == "value_and_name"
        lines = [
            (f"{legend} " if is_named else "") + f"{_rounded(scale * value)}{unit}"
            for legend, value in found
        ]
        text = "\n".join(lines) or "no data"
        size = 12 if is_named else 22 if len(text) < 9 else 16
        axis.text(0.5, 0.5, text, color="white", fontsize=size, ha="center", va="center")

    def _table(self, axis: Any, panel: dict[str, Any]) -> None:
        cells = [[legend, f"{value:.3g}"] for legend, value in self._found_last(panel["targets"])]
        axis.axis("off")
        if cells:
            height = min(len(cells) / 12, 1)  # of the panel
            place = [0, 1 - height, 1, height]
            table = axis.table(cells, cellLoc="left", edges="open", colWidths=[3, 1], bbox=place)
            table.auto_set_font_size(False)
            table.set_fontsize(7)


def _scale_and_unit(panel: dict[str, Any]) -> tuple[float, str]:
    """Return what a panel's values are multiplied by, and the unit that they then have, after a blank."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    _, is_suffix, suffix = unit.partition("suffix:")
    return UNITS.get(unit, (1.0, f" {suffix}" if is_suffix else ""))


def _rounded(value: float) -> str:
    """Return three digits of a number, or all before its point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _limit(axis: Any, panel: dict[str, Any], scale: float, unit: str) -> None:
    """Show what a value can be, and where its colour changes."""
    defaults = panel["fieldConfig"]["defaults"]
    if "min" in defaults:
        axis.set_ylim(bottom=scale * defaults["min"])
    if "max" in defaults:
        axis.set_ylim(top=scale * defaults["max"] * 1.02)
    for step in defaults["thresholds"]["steps"][1:]:
        value, colour = scale * step["value"], step["color"]
        label = f"{colour} from {_rounded(value)}{unit}"
        axis.axhline(value, color=COLOURS[colour], linestyle="--", linewidth=1, label=label)
