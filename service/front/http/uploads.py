"""From the body of a request to the files and the parameters in it: the body itself, or a multipart form (RFC 7578)."""

from typing import NamedTuple

from python_multipart.multipart import parse_options_header

from service.problems import InvalidUpload, UnsupportedEncoding

MAX_PARTS = 64
MAX_HEAD_BYTES = 8192  # of one part
MAX_FIELD_BYTES = 256  # more than any parameter needs

FILE_FIELD = b"file"  # a part of this name is the image, whatever its type
# JSON or XML that comes with the image, as from Spring: not ours to read.
DOCUMENT_BEGINS = (b"{", b"[", b"<")
UNENCODED = {b"", b"binary", b"8bit", b"7bit"}


class Upload(NamedTuple):
    """What a body holds.

    Attributes:
        files: their bytes, in order.
        fields: name and value of the form fields, in order; they are parameters.
    """

    files: tuple[bytes, ...]
    fields: tuple[tuple[str, str], ...] = ()

    def only_file(self) -> bytes:
        """Return the file.

        Raises:
            InvalidUpload: there is none, or more than one.
        """
        if len(self.files) != 1:
            raise InvalidUpload(
                f"the multipart form holds {len(self.files)} files; send one, "
                "as a part with a file name, of an image type, or named 'file'"
            )
        return self.files[0]


def read_upload(body: bytes, content_type: bytes, content_encoding: bytes = b"") -> Upload:
    """Return what a body holds.

    Raises:
        UnsupportedEncoding: it is packed.
        InvalidUpload: its form cannot be read.
    """
    encoding = content_encoding.strip().lower()
    if encoding not in (b"", b"identity"):
        packing = encoding.decode("latin-1")
        raise UnsupportedEncoding(
            f"the body has the Content-Encoding {packing!r}; send it as it is",
            headers={"Accept-Encoding": "identity"},
            encoding=packing,
        )
    media_type, parameters = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        return Upload((body,))
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise InvalidUpload("the Content-Type of a multipart form must name its boundary")
    files: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for part in _split(body, b"\r\n--" + boundary):
        head, content = _head_and_content(part)
        name, file_name, part_type = _describe(head)
        if name != FILE_FIELD and _is_text(part_type, file_name):
            if file_name is None and not content.lstrip().startswith(DOCUMENT_BEGINS):
                fields.append(_field(name, content))
        elif content or file_name:  # else it is a file input that was left empty
            files.append(content)
    return Upload(tuple(files), tuple(fields))


def _split(body: bytes, delimiter: bytes) -> list[bytes]:
    """Return the parts between delimiters; what comes before the first and after the last is no part."""
    _, *parts = (b"\r\n" + body).split(delimiter, MAX_PARTS + 1)
    for n, part in enumerate(parts):
        if part.startswith(b"--"):
            return parts[:n]
    if len(parts) > MAX_PARTS:
        raise InvalidUpload(
            f"the multipart form has more parts than {MAX_PARTS}, the most that may"
        )
    raise InvalidUpload(
        "the multipart form cannot be read: the boundary that ends it is missing; "
        "it may be cut off, or its Content-Type may name another boundary"
    )


def _head_and_content(part: bytes) -> tuple[bytes, bytes]:
    end = part.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    padding, _, head = part[: max(end, 0)].partition(b"\r\n")
    if end < 0 or padding.strip(b" \t"):
        raise InvalidUpload("the multipart form cannot be read: a part has no end of its headers")
    return head, part[end + 4 :]


def _describe(head: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Return name, file name (None where there is none) and media type of a part, by its headers."""
    headers: dict[bytes, bytes] = {}
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if line and not colon:
            raise InvalidUpload(f"the multipart form cannot be read: {line[:64]!r} is no header")
        headers[key.strip().lower()] = value.strip()
    encoding = headers.get(b"content-transfer-encoding", b"").lower()
    if encoding not in UNENCODED:
        raise InvalidUpload(
            f"a part has the Content-Transfer-Encoding {encoding.decode('latin-1')!r}; send it as it is"
        )
    disposition = headers.get(b"content-disposition", b"")
    _, options = parse_options_header(disposition)
    file_name = options.get(b"filename", b"*" if b"filename*" in disposition.lower() else None)
    part_type, _ = parse_options_header(headers.get(b"content-type", b""))
    return options.get(b"name", b""), file_name, part_type


def _is_text(part_type: bytes, file_name: bytes | None) -> bool:
    """Return whether a part is a form field, or a document that comes with the image, by how it is declared."""
    if not part_type:
        return file_name is None
    return part_type.startswith(b"text/") or part_type.endswith((b"/json", b"+json", b"/xml"))


def _field(name: bytes, content: bytes) -> tuple[str, str]:
    text = name.decode("utf-8", "replace")
    if len(content) > MAX_FIELD_BYTES:
        raise InvalidUpload(
            f"the form field {text!r} is {len(content)} bytes, the limit is {MAX_FIELD_BYTES}; "
            "an image is sent as a part with a file name, of an image type, or named 'file'"
        )
    return text, content.decode("utf-8", "replace").strip()
