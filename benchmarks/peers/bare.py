"""The floor: a bare uvicorn handler that decodes the image and runs the session in the event loop."""

import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.peers.graph import Graph, read_options


def main() -> None:
    """Serve."""
    options = read_options()
    graph = Graph(options.graph)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        reply = b'{"class_id": %d}' % graph.classify(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(reply)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    uvicorn.run(
        app, port=options.port, lifespan="off", log_level="warning", access_log=False, loop="uvloop"
    )


if __name__ == "__main__":
    main()
