"""Ray Serve: one replica behind its proxy."""

import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.graph import Graph, read_options


class Classifier:
    """Takes the file as the request's body."""

    def __init__(self, path: str) -> None:
        self._graph = Graph(path)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Classify."""
        return {"class_id": self._graph.classify(await request.body())}


def main() -> None:
    """Serve until a signal."""
    options = read_options()
    ray.init(include_dashboard=False, num_cpus=1, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    deployment = serve.deployment(
        num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}
    )
    serve.run(deployment(Classifier).bind(options.graph), route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
