"""The dashboards, with windows of seconds, and their panels drawn from what a Prometheus holds."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

DASHBOARDS = Path(__file__).parent / "grafana" / "dashboards"
WINDOW_S = 20


def shortened(text: str) -> str:
    """Return rules or a query whose windows are seconds and whose alerts do not wait."""
    text = text.replace("$__rate_interval", f"{WINDOW_S}s")
    text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW_S}s]", text)
    return re.sub(r"for: \d+m", "for: 0s", text)


def panels() -> list[dict[str, Any]]:
    """Return every panel of every dashboard, with the dashboard's file name as ``dashboard``."""
    return [
        panel | {"dashboard": path.stem}
        for path in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
    ]


def draw(api: httpx.Client, started_at: float, folder: Path) -> None:
    """Draw the panels of each dashboard from the data since an instant."""
    from matplotlib import pyplot as plt

    for name in sorted({panel["dashboard"] for panel in panels()}):
        shown = [panel for panel in panels() if panel["dashboard"] == name]
        rows = -(-len(shown) // 3)
        figure, axes = plt.subplots(rows, 3, figsize=(15, 2.9 * rows), layout="constrained")
        for axis in axes.flat[len(shown) :]:
            axis.remove()
        for axis, panel in zip(axes.flat, shown, strict=False):
            axis.set_title(panel["title"], fontsize=10)
            drawn = _draw_table if panel["type"] == "table" else _draw_curves
            drawn(axis, panel, api, started_at)
        figure.savefig(folder / f"dashboard-{name}.png", dpi=80)
        plt.close(figure)


def _found(
    panel: dict[str, Any], api: httpx.Client, started_at: float
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yield legend and points (seconds, value) of what a panel shows."""
    for target in panel["targets"]:
        span = {"start": started_at, "end": time.time(), "step": 1}
        answer = api.get("/query_range", params={"query": shortened(target["expr"]), **span})
        for series in answer.json()["data"]["result"]:
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            yield legend, [(float(t) - started_at, float(value)) for t, value in series["values"]]


def _draw_table(axis: Any, panel: dict[str, Any], api: httpx.Client, started_at: float) -> None:
    cells = [[legend, f"{points[-1][1]:.3g}"] for legend, points in _found(panel, api, started_at)]
    height = min(len(cells) / 16, 1)  # of the panel
    table = axis.table(
        cells, cellLoc="left", edges="open", colWidths=[3, 1], bbox=[0, 1 - height, 1, height]
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    axis.axis("off")


def _draw_curves(axis: Any, panel: dict[str, Any], api: httpx.Client, started_at: float) -> None:
    percent = panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    scale, unit = {"s": (1e3, "ms"), "bytes": (2**-20, "MiB"), "reqps": (1.0, "1/s")}.get(
        panel["fieldConfig"]["defaults"]["unit"], (100.0, "%") if percent else (1.0, "")
    )
    for legend, points in _found(panel, api, started_at):
        axis.plot([at for at, _ in points], [scale * value for _, value in points], label=legend)
    axis.set_ylabel(unit)
    axis.set_xlabel("s")
    axis.legend(fontsize=6, loc="best")
