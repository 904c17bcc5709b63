"""How each server wants to be asked about a JPEG file, and where its answer stands: one dialect an API.

All but one are asked with a file's bytes, so that decoding is part of every server's work; ``pixels`` are decoded before they are sent.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

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


def _as_png(jpeg: bytes) -> bytes:
    file = BytesIO()
    Image.open(BytesIO(jpeg)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def _as_pixels(jpeg: bytes) -> bytes:
    """Return a tensor of pixels as Triton's client sends it, with the JSON part padded as above."""
    image = Image.open(BytesIO(jpeg)).convert("RGB")
    tensor = {
        "name": "images",
        "shape": [1, image.height, image.width, 3],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": 3 * image.width * image.height},
    }
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return json.dumps(asked).encode().ljust(TRITON_JSON) + image.tobytes()


TRITON_JSON = 192  # bytes


def _read_plain(body: bytes) -> Said:
    answer = json.loads(body)
    return Said(answer["class_id"], answer.get("subnetwork", ""))


def _read_tensor(body: bytes) -> Said:
    return Said(int(json.loads(body)["outputs"][0]["data"][0]))


def _read_binary_tensors(body: bytes) -> Said:
    return Said(int.from_bytes(body[-8:], "little"))  # class_id, INT64, is the last of three


def _plain(path: str) -> Dialect:
    return Dialect(path, "image/jpeg", _as_it_is, _read_plain)


DIALECTS = {
    "anytime": _plain("/classify?deadline_ms={deadline_ms:g}"),
    "png": Dialect("/classify?deadline_ms={deadline_ms:g}", "image/png", _as_png, _read_plain),
    "pixels": Dialect(
        "/v2/models/cifar10/infer?deadline_ms={deadline_ms:g}",
        f"application/octet-stream\r\nInference-Header-Content-Length: {TRITON_JSON}",
        _as_pixels,
        _read_binary_tensors,
    ),
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
