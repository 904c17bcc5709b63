"""How each server wants to be asked about a JPEG file, and where its answer stands: one dialect an API.

All are asked with the file's bytes, so that decoding is part of every server's work.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

BOUNDARY = b"a-part-of-the-form-ends-here"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: the class, and the subnetwork where the server names one."""

    class_id: int
    subnetwork: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask.

    Args:
        path: path and query; ``{deadline_ms:g}`` stands for the request's deadline.
        content_type: of the body, with any further headers on lines of their own.
        wrap: the body of a request from a JPEG file.
        read: the answer from the body of a reply.
    """

    path: str
    content_type: str
    wrap: Callable[[bytes], bytes]
    read: Callable[[bytes], Said]

    def request(self, jpeg: bytes, deadline_s: float) -> bytes:
        """Return a whole HTTP/1.1 request on a connection that stays open."""
        body = self.wrap(jpeg)
        head = (
            f"POST {self.path.format(deadline_ms=1e3 * deadline_s)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _as_it_is(jpeg: bytes) -> bytes:
    return jpeg


def _as_form(jpeg: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
    return b"".join(
        (
            b"--",
            BOUNDARY,
            b"\r\n",
            head,
            b"Content-Type: image/jpeg\r\n\r\n",
            jpeg,
            b"\r\n--",
            BOUNDARY,
            b"--\r\n",
        )
    )


def _as_base64(jpeg: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(jpeg).decode()}).encode()


def _as_base64_tensor(jpeg: bytes) -> bytes:
    tensor = {
        "name": "jpeg",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(jpeg).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _as_binary_tensor(jpeg: bytes) -> bytes:
    """Return the request without its JSON part's length, which Triton finds in a header: see ``TRITON_JSON``."""
    # A BYTES element is its length and its bytes. The JSON is padded, so that one header suits every image.
    tensor = {
        "name": "jpeg",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": 4 + len(jpeg)},
    }
    text = json.dumps({"inputs": [tensor]}).encode().ljust(TRITON_JSON)
    return text + len(jpeg).to_bytes(4, "little") + jpeg


TRITON_JSON = 192  # bytes


def _read_plain(body: bytes) -> Said:
    answer = json.loads(body)
    return Said(answer["class_id"], answer.get("subnetwork", ""))


def _read_tensor(body: bytes) -> Said:
    return Said(int(json.loads(body)["outputs"][0]["data"][0]))


def _plain(path: str) -> Dialect:
    return Dialect(path, "image/jpeg", _as_it_is, _read_plain)


DIALECTS = {
    "anytime": _plain("/classify?deadline_ms={deadline_ms:g}"),
    "plain": _plain("/classify"),
    "form": Dialect(
        "/classify",
        f"multipart/form-data; boundary={BOUNDARY.decode()}",
        _as_form,
        _read_plain,
    ),
    "base64": Dialect("/classify", "application/json", _as_base64, _read_plain),
    "mlserver": Dialect(
        "/v2/models/fractalnet/infer", "application/json", _as_base64_tensor, _read_tensor
    ),
    "triton": Dialect(
        "/v2/models/fractalnet/infer",
        f"application/octet-stream\r\nInference-Header-Content-Length: {TRITON_JSON}",
        _as_binary_tensor,
        _read_tensor,
    ),
}
