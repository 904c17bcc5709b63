"""MLServer: the model in the server's own process, since there is one core; no batching."""

import asyncio
import os

from mlserver import MLModel, MLServer
from mlserver.codecs import Base64Codec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.graph import Graph, read_options


class Classifier(MLModel):
    """Takes the file as a base64 tensor."""

    async def load(self) -> bool:
        """Load the graph."""
        self._graph = Graph(os.environ["GRAPH"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify."""
        (jpeg,) = Base64Codec.decode_input(payload.inputs[0])
        class_id = self._graph.classify(jpeg)
        output = ResponseOutput(name="class_id", shape=[1], datatype="INT64", data=[class_id])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve() -> None:
    """Serve."""
    options = read_options()
    os.environ["GRAPH"] = options.graph
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=options.port,
            grpc_port=options.port + 1,
            metrics_port=options.port + 2,
            parallel_workers=0,
            debug=False,
        )
    )
    model = ModelSettings(
        name="fractalnet", implementation=Classifier, parameters=ModelParameters(version="1")
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(serve())
