"""OpenTelemetry traces: a span for each request in the sample, and in it decoding, queue, run and reply.

Needs the extra ``traces``; this module is imported only where ``ANYTIME_TRACE_SAMPLE`` is over 0. Where spans go to is
said by OpenTelemetry's own variables, ``OTEL_EXPORTER_OTLP_ENDPOINT`` above all. A request that carries a W3C
``traceparent`` is part of its caller's trace, and sampled if that is.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_WITHIN_S = 2  # a collector that does not answer must not keep the server from ending


Stretch = tuple[str, float, float]
"""The name of a part of a request's time, its begin and its end on the server's clock."""


class Tracer:
    """Records requests once they have ended, so that nothing is done for traces while a deadline runs.

    Args:
        share: of the requests without a caller's trace that are recorded.
        version: of the server.
        clock: seconds, monotonic; that of the stretches.
    """

    def __init__(self, share: float, *, version: str, clock: Callable[[], float]) -> None:
        self._since_epoch_s = time.time() - clock()
        resource = Resource.create({"service.name": "anytime", "service.version": version})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(share))
        )
        exporter = OTLPSpanExporter(timeout=EXPORT_WITHIN_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("anytime")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        whole: Stretch,
        parts: Sequence[Stretch],
        *,
        headers: Mapping[bytes, bytes],
        attributes: Mapping[str, str | float | bool],
        problem: str = "",
    ) -> None:
        """Record a request.

        Args:
            whole: from its arrival to its reply.
            parts: of it, in order.
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
            for part, from_at, to_at in parts:
                child = self._tracer.start_span(
                    part, context=within, start_time=self._epoch_ns(from_at)
                )
                child.end(self._epoch_ns(to_at))
        span.end(self._epoch_ns(end_at))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _epoch_ns(self, at: float) -> int:
        return int(1e9 * (self._since_epoch_s + at))
