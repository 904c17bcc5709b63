"""Traces of the real server, as a collector receives them."""

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.observability.tracing import Tracer
from tests.server import ServerProcess

StartServer = Callable[..., ServerProcess]
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What takes spans over OTLP/HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sent = ExportTraceServiceRequest.FromString(body)
                for resource in sent.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    thread = Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def attributes(span: Span) -> dict[str, object]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in span.attributes
    }


def test_a_request_is_a_span_of_its_callers_trace_with_its_parts(
    start_server: StartServer, collector: Collector, jpeg: bytes
) -> None:
    server = start_server(trace_sample=1e-9, trace_callers=True, log_sample=1)
    server.wait_for("ready")
    traceparent = f"00-{TRACE_ID}-{PARENT_ID}-01"

    answer = server.client.post(
        "/classify", content=jpeg, headers={"traceparent": traceparent}
    ).json()
    line = server.wait_for("request")
    server.terminate()
    assert server.end()[0] == 0

    (root,) = collector.named("POST /classify")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    parts = [span for span in collector.spans if span is not root]
    assert [part.name for part in parts] == ["decode", "queue", "run", "reply"]
    assert all(part.parent_span_id == root.span_id for part in parts)
    instants = [part.start_time_unix_nano for part in parts]
    assert root.start_time_unix_nano <= instants[0]
    assert instants == sorted(instants)
    assert parts[-1].end_time_unix_nano <= root.end_time_unix_nano
    described = attributes(root)
    assert described["anytime.subnetwork"] == answer["subnetwork"]
    assert described["anytime.request_id"] == answer["request_id"]
    assert described["anytime.outcome"] == "in_time"
    assert described["http.response.status_code"] == 200
    run = attributes(parts[2])
    assert run["anytime.subnetwork"] == answer["subnetwork"]
    assert (run["anytime.batch_size"], run["anytime.outcome"]) == (1, "in_time")
    assert line["trace_id"] == TRACE_ID


def test_caller_who_is_not_trusted_cannot_have_its_requests_recorded() -> None:
    tracer = Tracer(0.0, "0", time.monotonic, trust_callers=False)
    low = f"{'0' * 31}1"  # an id that any share of ids would take
    headers = {b"traceparent": f"00-{low}-{PARENT_ID}-01".encode()}

    recorded = tracer.record(("POST /classify", 0.0, 1.0), [], headers=headers, attributes={})
    tracer.close()

    assert not recorded


def test_a_problem_is_a_span_with_its_error(
    start_server: StartServer, collector: Collector
) -> None:
    server = start_server(trace_sample=1)
    server.wait_for("ready")
    server.classify(b"no image")
    server.terminate()
    assert server.end()[0] == 0

    (root,) = collector.spans
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(root)["http.response.status_code"] == 415
    assert attributes(root)["anytime.outcome"] == "invalid"


def test_a_collector_that_is_not_there_keeps_nobody_waiting(
    start_server: StartServer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = start_server(trace_sample=1)
    server.wait_for("ready")

    assert server.classify(jpeg).status_code == 200
    server.terminate()
    assert server.end()[0] == 0
