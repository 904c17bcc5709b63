"""``anytime canary``: a model's canary beside its own bundle, promoted or rolled back."""

import os
from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.exits import MISUSED, fail, importing
from service.cli.tables import Table

if TYPE_CHECKING:
    from prometheus_client import Metric

CANARY_EXAMPLES = """\
Examples:

\b
  anytime canary http://127.0.0.1:8000                  how the canary does beside the model's own bundle
  anytime canary http://127.0.0.1:8000 --share 0.2      have it answer a fifth of the requests
  anytime canary http://127.0.0.1:8000 --promote        all of them
  anytime canary http://127.0.0.1:8000 --roll-back      none

\b
The share is changed with the key in ANYTIME_ADMIN_KEY.
"""
TIMEOUT_S = 10.0
SUFFIX = "@canary"


def canary(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the model. [default: the first with a canary]"),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Of the model's requests, that the canary answers."),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Let it answer all.")] = False,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Let it answer none.")] = False,
) -> None:
    """Compare a model's canary with its own bundle, and change the share of requests that it answers.

    A change holds from the next request on, in every front, and loses none: both bundles stay loaded. The next start begins
    with the share in ANYTIME_BUNDLES.
    """
    wanted = [share] * (share is not None) + [1.0] * promote + [0.0] * roll_back
    if len(wanted) > 1:
        raise typer.BadParameter(
            "--share, --promote and --roll-back say different things; choose one"
        )
    with importing("cpu"):
        import httpx
        from prometheus_client.parser import text_string_to_metric_families
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            headers = _headers()
            text = _told(client.get("/metrics", headers=headers)).text
            if model is None:
                model = _first(text_string_to_metric_families(text))
            if wanted:
                query: dict[str, Any] = {"share": wanted[0], "model": model}
                _told(client.post("/admin/canary", params=query, headers=headers))
                text = _told(client.get("/metrics", headers=headers)).text
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(f"{url}: {error}")
    _show(model, list(text_string_to_metric_families(text)))


def _headers() -> dict[str, str]:
    key = os.environ.get("ANYTIME_ADMIN_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _told(reply: Any) -> Any:
    """Return a reply, or end the command with what is wrong."""
    if reply.status_code >= 400:
        try:
            detail = reply.json()["detail"]
        except (ValueError, KeyError):
            detail = f"{reply.status_code} {reply.reason_phrase}"
        fail(str(detail), MISUSED if reply.status_code == 422 else 1)
    return reply


def _first(families: "Iterable[Metric]") -> str:
    """Return the first model that has a canary."""
    for family in families:
        if family.name == "anytime_canary_share_ratio":
            for sample in family.samples:
                return sample.labels["model"].removesuffix(SUFFIX)
    fail("no model there has a canary: ANYTIME_BUNDLES names one as name@0.05=folder")


def _show(model: str, families: "Iterable[Metric]") -> None:
    """Print both side by side."""
    samples = [sample for family in families for sample in family.samples]
    table = Table(
        [
            ("bundle", max(len(model + SUFFIX), 6)),
            ("digest", 12),
            ("share", -6),
            ("answers", -9),
            ("in time", -8),
            ("median", -10),
            ("99 %", -10),
            ("expected", -9),
            ("labels right", -18),
            ("agreement", -18),
        ]
    )
    shares = {each.labels["model"]: each.value for each in samples if "canary_share" in each.name}
    share = shares.get(model + SUFFIX)
    if share is None:
        fail(f"{model} has no canary: ANYTIME_BUNDLES names one as {model}@0.05=folder")
    for name, part in ((model, 1 - share), (model + SUFFIX, share)):
        own = [each for each in samples if each.labels.get("model") == name]
        table.row(name, *_cells(own, part))


def _cells(samples: "list[Any]", share: float) -> list[str]:
    def total(name: str, **labels: str) -> float:
        return sum(
            float(each.value)
            for each in samples
            if each.name == f"anytime_{name}" and labels.items() <= each.labels.items()
        )

    def fraction(name: str, verdict: str) -> str:
        count = total(name)
        return f"{total(name, verdict=verdict) / count:.1%} of {count:,.0f}" if count else "–"

    answers = total("request_latency_seconds_count")
    in_time = total("requests_total", outcome="in_time")
    received = total("requests_total")
    buckets: dict[float, float] = {}
    for each in samples:
        if each.name == "anytime_request_latency_seconds_bucket":
            edge = float(each.labels["le"])
            buckets[edge] = buckets.get(edge, 0.0) + each.value
    digest = next(each.labels["digest"] for each in samples if each.name == "anytime_bundle_info")
    expected = total("expected_correct_total")
    return [
        digest[:12],
        f"{share:.0%}",
        f"{answers:,.0f}",
        f"{in_time / received:.1%}" if received else "–",
        _quantile(buckets, 0.5),
        _quantile(buckets, 0.99),
        f"{expected / answers:.2%}" if answers else "–",
        fraction("labelled_total", "right"),
        fraction("agreement_total", "agrees"),
    ]


def _quantile(buckets: Mapping[float, float], quantile: float) -> str:
    """Return the edge of the bucket in which a quantile lies."""
    count = buckets.get(inf, 0.0)
    if not count:
        return "–"
    edge_s = next(edge for edge in sorted(buckets) if buckets[edge] >= quantile * count)
    return f"<= {1e3 * edge_s:g} ms"
