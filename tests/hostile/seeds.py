"""The inputs that hostile ones are made of: small, whole, and one of each kind; ``corpus/READER/`` holds them as files.

``python -m tests.hostile.seeds`` writes them. What fuzzing finds is put beside them by hand, under a name that says what it is.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.bundle import PRETRAINED_DIR
from tests.hostile.readers import CIFAR_100
from tests.model.graphs import small_graph
from tests.model.test_signature import SIGNATURE
from tests.service.front.open_inference.test_messages import CASES, sent

FOLDER = Path(__file__).parent / "corpus"


def _images() -> dict[str, bytes]:
    y, x = np.mgrid[0:24, 0:20]
    colours = np.stack([10 * x, 10 * y, 128 + 0 * x], axis=-1).astype(np.uint8)
    rgb = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "baseline.jpg": (rgb, "JPEG", {"quality": 60}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True, "quality": 60}),
        "turned.jpg": (rgb, "JPEG", {"exif": exif}),
        "grey.jpg": (rgb.convert("L"), "JPEG", {}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "rgb.png": (rgb, "PNG", {}),
        "palette.png": (rgb.convert("P"), "PNG", {"transparency": 3}),
        "grey16.png": (Image.fromarray((y * x * 99).astype(np.uint16)), "PNG", {}),
        "lossy.webp": (rgb, "WEBP", {}),
        "lossless.webp": (rgb.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
    }
    files = {}
    for name, (image, form, options) in wanted.items():
        file = BytesIO()
        image.save(file, form, **options)
        files[name] = file.getvalue()
    return files


def _forms() -> dict[str, bytes]:
    head = b"multipart/form-data; boundary=x\n"
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nPNG\r\n'
    field = b'--x\r\nContent-Disposition: form-data; name="deadline_ms"\r\n\r\n25\r\n'
    star = (
        b"--x\r\nContent-Disposition: form-data; name=file; filename*=utf-8''a%20b\r\n\r\nPNG\r\n"
    )
    return {
        "one": head + file + b"--x--\r\n",
        "several": head + b"preamble\r\n" + file + field + star + b"--x--\r\nepilogue",
        "raw": b"image/png\nPNG",
    }


def _requests() -> dict[str, bytes]:
    classify = b"POST /classify?deadline_ms=25 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nPNG"
    chunked = b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nPNG\r\n0\r\nt: u\r\n\r\n"
    upgrade = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    return {
        "pipelined": b"\xff" + 2 * classify + upgrade + b"GET / HTTP/1.0\r\n\r\n",
        "chunked": b"\x05" + chunked + classify,
        "upgrade": b"\x40" + 3 * upgrade,
    }


def _manifest() -> bytes:
    fields = json.loads((PRETRAINED_DIR / "cifar10" / "manifest.json").read_text())
    fields["subnetworks"] = fields["subnetworks"][:1]
    return json.dumps(fields).encode()


def corpus() -> dict[str, dict[str, bytes]]:
    """Return all inputs by reader and name."""
    messages = {}
    for n, case in enumerate(CASES):
        body, headers = sent(case)
        messages[f"{n}"] = headers.get(b"inference-header-content-length", b"") + b"\n" + body
    keys = f'["web"]\nscopes = ["classify"]\nsha256 = "{64 * "0"}"\nburst = 3\n'
    return {
        "image": _images(),
        "form": _forms(),
        "requests": _requests(),
        "query": {
            "all": b"deadline_ms=25.5&on_miss=refuse&top_k=3&subnetwork=full",
            "encoded": b"dead%6cine_ms=1e3&top_k=%31",
        },
        "feedback": {"right": b'{"request_id": "abc", "label": "cat"}'},
        "inference": messages,
        "manifest": {"one.json": _manifest()},
        "graph": {"small.onnx": small_graph().SerializeToString()},
        "signature": {"minisign": SIGNATURE},
        "data set": {"cifar-100": CIFAR_100["train"]},
        "keys": {"one.toml": keys.encode()},
    }


def read_corpus(reader: str) -> list[bytes]:
    """Return the inputs of a reader as they are in the repository."""
    return [path.read_bytes() for path in sorted((FOLDER / reader).iterdir())]


if __name__ == "__main__":
    for reader, inputs in corpus().items():
        (FOLDER / reader).mkdir(parents=True, exist_ok=True)
        for name, content in inputs.items():
            (FOLDER / reader / name).write_bytes(content)
