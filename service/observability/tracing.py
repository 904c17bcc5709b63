"""OpenTelemetry traces: a span for each request in the sample, and in it decoding, queue, run and reply.

Needs the extra ``traces``; this module is imported only where ``ANYTIME_TRACE_SAMPLE`` is over 0. Where spans go to is
said by OpenTelemetry's own variables, ``OTEL_EXPORTER_OTLP_ENDPOINT`` above all. A request that carries a W3C
``traceparent`` is part of its caller's trace. Whether it is recorded is the server's to say, unless callers are trusted: by their
flag, or by an id that the share would take, anyone could have every request recorded.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    SpanKind,
    Status,
    StatusCode,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

EXPORT_WITHIN_S = 2  # a collector that does not answer must not keep the server from ending


Stretch = tuple[str, float, float]
"""The name of a part of a request's time, its begin and its end on the server's clock."""

Described = Mapping[str, str | float | bool]


class ShareSampler(Sampler):
    """Records a share of the requests, by chance: nothing that a caller sends weighs in."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._rng = Random()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide on a request."""
        decision = Decision.RECORD_AND_SAMPLE if self._rng.random() < self._share else Decision.DROP
        state = get_current_span(parent_context).get_span_context().trace_state
        return SamplingResult(decision, attributes, state)

    def get_description(self) -> str:
        """Return what it does."""
        return f"a share of {self._share:g}, by chance"


class Tracer:
    """Records requests once they have ended, so that nothing is done for traces while a deadline runs.

    Args:
        share: of the requests that are recorded.
        trust_callers: record what callers trace, and nothing that they trace and do not record.
        version: of the server.
        clock: seconds, monotonic; that of the stretches.
    """

    def __init__(
        self,
        share: float,
        version: str,
        clock: Callable[[], float],
        *,
        trust_callers: bool,
    ) -> None:
        self._since_epoch_s = time.time() - clock()
        resource = Resource.create({"service.name": "anytime", "service.version": version})
        own = ShareSampler(share)
        sampler = (
            ParentBased(own)
            if trust_callers
            else ParentBased(own, remote_parent_sampled=own, remote_parent_not_sampled=own)
        )
        self._provider = TracerProvider(resource=resource, sampler=sampler)
        exporter = OTLPSpanExporter(timeout=EXPORT_WITHIN_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("anytime")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        whole: Stretch,
        parts: Sequence[tuple[Stretch, Described]],
        *,
        headers: Mapping[bytes, bytes],
        attributes: Described,
        problem: str = "",
    ) -> str:
        """Record a request; return the id of its trace if it is in the sample, else nothing.

        Args:
            whole: from its arrival to its reply.
            parts: of it, in order, and what there is to say of each.
            headers: of the request, for its caller's trace.
            attributes: what was decided, and how it ended.
            problem: what was wrong, if the server gave no answer.
        """
        carrier = {
            name: headers[name.encode()].decode("latin-1")
            for name in self._propagator.fields
            if name.encode() in headers
        }
        name, begin_at, end_at = whole
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=self._epoch_ns(begin_at),
        )
        if span.is_recording():
            if problem:
                span.set_status(Status(StatusCode.ERROR, problem))
            within = set_span_in_context(span)
            for (part, from_at, to_at), described in parts:
                child = self._tracer.start_span(
                    part, context=within, attributes=described, start_time=self._epoch_ns(from_at)
                )
                child.end(self._epoch_ns(to_at))
        trace_id = f"{span.get_span_context().trace_id:032x}" if span.is_recording() else ""
        span.end(self._epoch_ns(end_at))
        return trace_id

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _epoch_ns(self, at: float) -> int:
        return int(1e9 * (self._since_epoch_s + at))
