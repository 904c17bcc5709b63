"""``anytime classify``: what is on images, by a deadline."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.asking import ask_bundle, ask_server
from service.cli.exits import FAILED, MISUSED, fail
from service.cli.files import ImageFile, NoImages, find_images
from service.cli.tables import Table

if TYPE_CHECKING:
    from service.client import Answer, AsyncClient

CLASSIFY_EXAMPLES = """\
Examples:

\b
  anytime classify cat.jpg                               with the bundled network
  anytime classify photos/ '*.png' --deadline-ms 20      folders and patterns
  anytime classify cat.jpg --deadline-ms 50 --watch      a first answer at once, and better ones
  anytime classify - --json --url http://127.0.0.1:8000 < cat.jpg

\b
Exit code 1: an image got no answer; its row says why.
"""
LONGEST_NAME = 40


def classify(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Files, folders, patterns, or - for stdin."),
    ],
    deadline_ms: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Time for each answer. [default: the server's]"),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Server to ask, instead of a bundle.")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Bundle to load. [default: the bundled one]"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show each better answer too.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each answer.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which of a server's models to ask. [default: the first]"
        ),
    ] = None,
    on_miss: Annotated[
        str | None, typer.Option(metavar="answer|refuse", help="Where no answer fits.")
    ] = None,
    subnetwork: Annotated[
        str | None, typer.Option(metavar="NAME", help="The only one that may answer.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="INTEGER", help="Labels to list, with --json.")
    ] = None,
    stop_at_confidence: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="An answer that is so sure is the last.")
    ] = None,
) -> None:
    """Say what is on images.

    Each is answered as accurately as the deadline allows, one after the other. Without --url a server of this command's
    own answers, and ends with it.
    """
    if url and bundle:
        raise typer.BadParameter("--url names a server and --bundle a folder; choose one")
    try:
        files = find_images(images)
    except NoImages as error:
        fail(str(error), MISUSED)
    asked = {
        "model": model,
        "deadline_ms": deadline_ms,
        "on_miss": on_miss,
        "subnetwork": subnetwork,
        "top_k": top_k,
        "stop_at_confidence": stop_at_confidence,
    }
    options = {name: value for name, value in asked.items() if value is not None}

    async def work(client: "AsyncClient") -> bool:
        from service.client import AnytimeError, InvalidParameter, Unreachable

        served = await client.subnetworks(model)  # makes the connection, before a deadline counts
        names = [each.name for each in served.subnetworks]
        show = _print_json if as_json else _Rows([each.name for each in files], names).show
        were_answered = True
        for file in files:
            try:
                content = file.read()
            except OSError as error:
                were_answered = False
                show(file, error)
                continue
            try:
                async for answer in _answers(client, content, options, watch=watch):
                    show(file, answer)
            except InvalidParameter as error:
                fail(error.detail, MISUSED)
            except Unreachable:
                raise
            except AnytimeError as error:
                were_answered = False
                show(file, error)
        return were_answered

    if not (ask_server(url, work) if url else ask_bundle(bundle, work)):
        raise typer.Exit(FAILED)


async def _answers(
    client: "AsyncClient", content: bytes, options: Mapping[str, Any], *, watch: bool
) -> "AsyncIterator[Answer]":
    """Give the answer to an image, or one after the other."""
    if watch:
        async for answer in client.stream(content, **options):
            yield answer
    else:
        yield await client.classify(content, **options)


class _Rows:
    """Prints answers as rows of a table.

    Args:
        images: their names.
        subnetworks: those of all that may answer.
    """

    def __init__(self, images: Sequence[str], subnetworks: Sequence[str]) -> None:
        longest = min(max(map(len, images)), LONGEST_NAME)
        self._table = Table(
            [
                ("image", max(longest, len("image"))),
                ("label", 12),
                ("confidence", -10),
                ("subnetwork", max(map(len, ("subnetwork", *subnetworks)))),
                ("latency", -11),
                ("", 0),
            ]
        )

    def show(self, file: ImageFile, outcome: "Answer | Exception") -> None:
        """Print a row."""
        name = file.name if len(file.name) <= LONGEST_NAME else f"…{file.name[1 - LONGEST_NAME :]}"
        if isinstance(outcome, Exception):
            self._table.row(name, str(outcome), colour=typer.colors.RED)
            return
        verdict = ("in time" if outcome.in_time else "late") if outcome.final else "…"
        self._table.row(
            name,
            outcome.label,
            f"{outcome.confidence:.1%}",
            outcome.subnetwork,
            f"{outcome.waited_ms:.2f} ms",
            verdict,
            colour=None if outcome.in_time else typer.colors.YELLOW,
        )


def _print_json(file: ImageFile, outcome: "Answer | Exception") -> None:
    """Print a line of JSON."""
    if isinstance(outcome, Exception):
        said = {"error": getattr(outcome, "slug", type(outcome).__name__), "detail": str(outcome)}
        typer.echo(json.dumps({"image": file.name, **said}))
    else:
        typer.echo(json.dumps({"image": file.name, **asdict(outcome)}))
