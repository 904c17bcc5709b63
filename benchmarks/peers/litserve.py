"""LitServe: one worker process, the fast queue between it and the HTTP process; no batching, which costs on a CPU."""

import base64
from typing import Any

import litserve as ls
from starlette.requests import Request

from benchmarks.peers.graph import Graph, read_options


class Classifier(ls.LitAPI):
    """Takes the file as base64 in JSON, as the framework's examples do."""

    def __init__(self, path: str) -> None:
        super().__init__(api_path="/classify")
        self._path = path

    def setup(self, device: str) -> None:
        """Load the graph in the worker."""
        self._graph = Graph(self._path)

    def decode_request(self, request: Request, **_: Any) -> bytes:
        """Take the file out of the JSON; the framework parses it where it reads ``Request`` here."""
        return base64.b64decode(request["image"])

    def predict(self, x: bytes, **_: Any) -> int:
        """Classify."""
        return self._graph.classify(x)

    def encode_response(self, output: int, **_: Any) -> dict[str, int]:
        """Answer."""
        return {"class_id": output}


def main() -> None:
    """Serve."""
    options = read_options()
    server = ls.LitServer(
        Classifier(options.graph), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(port=options.port, host="127.0.0.1", generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
