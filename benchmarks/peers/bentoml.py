"""BentoML: one worker; the image is the request's body."""

import os
import sys
from pathlib import Path

import bentoml

from benchmarks.peers.graph import Graph, read_options


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Classifier:
    """Takes the file as a form's field, as the framework's examples do."""

    def __init__(self) -> None:
        self._graph = Graph(os.environ["GRAPH"])

    @bentoml.api(route="/classify")
    def classify(self, image: Path) -> dict[str, int]:
        """Classify."""
        return {"class_id": self._graph.classify(image.read_bytes())}


def main() -> None:
    """Become the framework's own command."""
    options = read_options()
    os.environ |= {"GRAPH": options.graph, "BENTOML_DO_NOT_TRACK": "True"}
    serve = ["serve", "benchmarks.peers.bentoml:Classifier", "--port", str(options.port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *serve, "--host", "127.0.0.1"])


if __name__ == "__main__":
    main()
