"""``anytime info``: the subnetworks of a bundle or a server, and what each costs and is worth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.asking import ask_bundle, ask_server, is_url
from service.cli.tables import MARKS, Table, plot

if TYPE_CHECKING:
    from service.client import AsyncClient, Subnetwork, SubnetworkList

INFO_EXAMPLES = """\
Examples:

\b
  anytime info                              the bundled network, on this machine
  anytime info runs/digits/bundle
  anytime info http://127.0.0.1:8000        what a server has, with its latencies now
"""
WIDTH = 60  # of the plot


def info(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE|URL", help="Folder of a bundle, or a server. [default: the bundled one]"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which of a server's models to show. [default: the first]"
        ),
    ] = None,
) -> None:
    """Show the subnetworks: how accurate they are, and how long a run takes.

    Of a bundle it takes seconds to measure that on this machine. What a star marks is on the front: nothing that is faster
    is as accurate.
    """

    async def work(client: "AsyncClient") -> "SubnetworkList":
        return await client.subnetworks(model)

    listed = ask_server(what, work) if what and is_url(what) else ask_bundle(what, work)
    _show(listed)


def _show(listed: "SubnetworkList") -> None:
    """Print table and plot."""
    entries = sorted(listed.subnetworks, key=lambda each: each.predicted_run_latency_ms)
    front = _front(entries)
    typer.echo(f"{listed.bundle.name} ({listed.bundle.digest[:12]}) on {listed.device}\n")
    longest = max(len(each.name) for each in entries)
    table = Table(
        [
            ("", 2),
            ("subnetwork", max(longest, len("subnetwork"))),
            ("depth", -5),
            ("parameters", -11),
            ("MMACs", -7),
            ("validation", -10),
            ("test", -7),
            ("run", -10),
        ]
    )
    for mark, each in zip(MARKS, entries, strict=False):
        table.row(
            mark + "*" * (each.name in front),
            each.name,
            str(each.depth or "–"),
            f"{each.parameters:,}",
            f"{each.macs / 1e6:.1f}",
            f"{each.expected_accuracy:.2%}",
            "–" if each.test_accuracy is None else f"{each.test_accuracy:.2%}",
            f"{each.predicted_run_latency_ms:.3f} ms",
        )
    points = [(each.predicted_run_latency_ms, each.expected_accuracy) for each in entries]
    typer.echo("\nvalidation accuracy")
    lines = plot(points, width=WIDTH)
    best, worst = max(y for _, y in points), min(y for _, y in points)
    scale = {0: f"{best:.1%}", len(lines) - 1: f"{worst:.1%}"}
    for n, line in enumerate(lines):
        typer.echo(f"{scale.get(n, ''):>6} │ {line}")
    typer.echo(f"{'':6} └{'─' * (WIDTH + 1)}")
    ends = f"{points[0][0]:.2g} ms", f"{points[-1][0]:.2g} ms"
    typer.echo(f"{'':8} {ends[0]}{ends[1]:>{WIDTH - len(ends[0])}}  run latency, logarithmic")


def _front(entries: "Sequence[Subnetwork]") -> set[str]:
    """Return the names of those, in order of latency, that are more accurate than all before."""
    names, best = set(), 0.0
    for each in entries:
        if each.expected_accuracy > best:
            names.add(each.name)
            best = each.expected_accuracy
    return names
