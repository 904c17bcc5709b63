"""``anytime bench``: what callers see of a server under load. ``benchmarks/`` measures the server more closely, from one machine.

An open loop: requests leave at random instants (Poisson) that do not wait for answers, and latency counts from the
instant that was meant, so that a slow server, or a slow generator, cannot hide its queue.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.asking import ask_server, is_url
from service.cli.exits import MISUSED, fail
from service.cli.files import ImageFile, NoImages, find_images
from service.cli.tables import Table

if TYPE_CHECKING:
    from service.client import Answer, AsyncClient

BENCH_EXAMPLES = """\
Examples:

\b
  anytime bench http://127.0.0.1:8000 photos/                        50 requests a second for 5 seconds
  anytime bench http://127.0.0.1:8000 test/ --rate 200 --deadline-ms 10
                                                                     of test/<class>/*: accuracy too

\b
A server with keys is asked with that in ANYTIME_KEY, one with a certificate of your own with its authority's file in SSL_CERT_FILE.

\b
In time, accuracy and right in time are shares of all that was offered, whatever became of it.
"""
MOST_PER_S, LONGEST_S = 2000.0, 60.0
MOST_IMAGES = 1000  # so many different ones are sent
LAG_SHARE = 0.1  # of the deadline: where requests leave later than this, the figures are the generator's too


@dataclass(slots=True)
class Seen:
    """What became of one request; times are in seconds from the instant at which it was due."""

    file: ImageFile
    sent_s: float = 0.0
    ended_s: float = 0.0
    answer: "Answer | None" = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """A load that is to be sent."""

    rate: float
    seconds: float
    deadline_s: float
    seed: int
    files: Sequence[ImageFile]

    def instants(self) -> Iterator[float]:
        """Give the instants of its requests, in seconds from its begin."""
        random = Random(self.seed)
        at = random.expovariate(self.rate)
        while at < self.seconds:
            yield at
            at += random.expovariate(self.rate)


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server.")],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Files, folders, patterns; or <folder>/<class>/*."),
    ],
    rate: Annotated[
        float, typer.Option(min=0.1, max=MOST_PER_S, metavar="NUMBER", help="Requests a second.")
    ] = 50.0,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=LONGEST_S, metavar="NUMBER", help="How long.")
    ] = 5.0,
    deadline_ms: Annotated[
        float, typer.Option(min=0.1, max=60_000, metavar="NUMBER", help="Of each request.")
    ] = 25.0,
    seed: Annotated[int, typer.Option(metavar="INTEGER", help="Of the instants.")] = 0,
) -> None:
    """Load a server for some seconds; say what its callers saw.

    Ask before you load a server that is not yours. One process of Python can send a few hundred requests a second; where
    it falls behind, it says so.
    """
    if not is_url(url):
        raise typer.BadParameter(f"{url!r} is no URL, such as http://127.0.0.1:8000")
    try:
        found = find_images(images)
    except NoImages as error:
        fail(str(error), MISUSED)
    files = Random(seed).sample(found, min(len(found), MOST_IMAGES))
    load = Load(rate, seconds, deadline_ms / 1e3, seed, files)
    seen = ask_server(url, lambda client: _send(client, load))
    if not seen:
        fail(f"no request falls into {seconds:g} s at {rate:g}/s; take more of either")
    _report(load, seen)


async def _send(client: "AsyncClient", load: Load) -> list[Seen]:
    """Send the load; return what became of each request."""
    from rich.console import Console
    from rich.progress import Progress

    try:
        contents = {each.name: each.read() for each in load.files}
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    await client.subnetworks()  # it is there, and speaks this API
    instants, seen = list(load.instants()), list[Seen]()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sending", total=len(instants))
        begin_at = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            for n, at in enumerate(instants):
                await asyncio.sleep(begin_at + at - time.monotonic())
                file = load.files[n % len(load.files)]
                seen.append(Seen(file))
                content, due_at = contents[file.name], begin_at + at
                requests.create_task(_ask(client, content, due_at, load.deadline_s, seen[-1]))
                progress.update(bar, completed=n + 1)
    return seen


async def _ask(
    client: "AsyncClient", content: bytes, due_at: float, deadline_s: float, seen: Seen
) -> None:
    """Send one request with what is left of its deadline; note what became of it."""
    from service.client import DeadlineExceeded, Problem, UnexpectedReply, Unreachable

    seen.sent_s = time.monotonic() - due_at
    left_ms = max(1e3 * (deadline_s - seen.sent_s), 0.001)
    try:
        seen.answer = await client.classify(content, deadline_ms=left_ms)
    except Problem as error:
        seen.problem = error.slug
    except DeadlineExceeded:
        seen.problem = "no answer"
    except Unreachable:
        seen.problem = "no connection"
    except UnexpectedReply:
        seen.problem = "no reply of ours"
    seen.ended_s = time.monotonic() - due_at


def _report(load: Load, seen: Sequence[Seen]) -> None:
    """Print what callers saw."""
    offered = len(seen)
    answered = [each for each in seen if each.answer is not None]
    in_time = [each for each in answered if each.ended_s <= load.deadline_s]
    typer.echo(f"{offered} requests in {load.seconds:g} s, deadline {1e3 * load.deadline_s:g} ms")
    typer.echo(f"  in time         {len(in_time) / offered:7.1%}")
    typer.echo(f"  late            {(len(answered) - len(in_time)) / offered:7.1%}")
    for problem, count in Counter(each.problem for each in seen if each.problem).most_common():
        typer.echo(f"  {problem:<15} {count / offered:7.1%}")
    known = {each.label for row in answered if row.answer for each in row.answer.top}
    if known & {each.file.label for each in seen}:
        right = [each for each in answered if each.answer and each.answer.label == each.file.label]
        right_in_time = [each for each in right if each.ended_s <= load.deadline_s]
        typer.echo(f"  right           {len(right) / offered:7.1%}")
        typer.echo(f"  right, in time  {len(right_in_time) / offered:7.1%}")
    if answered:
        _report_latency(answered)
    lag_s = _percentile([each.sent_s for each in seen], 0.99)
    if lag_s > LAG_SHARE * load.deadline_s:
        typer.secho(
            f"\nThis machine was behind: 1 of 100 requests left {1e3 * lag_s:.1f} ms late or more. "
            "What is above is its doing too.",
            fg=typer.colors.YELLOW,
        )


def _report_latency(answered: Sequence[Seen]) -> None:
    """Print the latencies of answers, and which subnetworks gave them."""
    latencies_s = [each.ended_s for each in answered]
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    parts = (f"{name} {1e3 * _percentile(latencies_s, p):.1f}" for name, p in shares.items())
    typer.echo(f"  latency in ms   {', '.join(parts)}\n")
    counts = Counter(each.answer.subnetwork for each in answered if each.answer)
    table = Table([("answered by", max(len(name) for name in (*counts, "answered by"))), ("", -7)])
    for name, count in counts.most_common():
        table.row(name, f"{count / len(answered):.1%}")


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so many of them do not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
