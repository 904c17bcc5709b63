import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.front.http.uploads import Upload, read_upload
from service.problems import InvalidUpload, UnsupportedEncoding

IMAGE = b"\xff\xd8 any bytes \r\n--edg \x00\r\n\r\n" * 100
FORM = b"multipart/form-data; boundary=edge"
FILE = b'form-data; name="image"; filename="a.jpg"'


def part(disposition: bytes, content: bytes, *headers: bytes) -> bytes:
    head = b"\r\n".join([b"Content-Disposition: " + disposition, *headers])
    return b"--edge\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


def read(*parts: bytes) -> Upload:
    return read_upload(form(*parts), FORM)


@pytest.mark.parametrize("content_type", [b"", b"image/jpeg", b"application/x-www-form-urlencoded"])
def test_any_other_body_is_the_file(content_type: bytes) -> None:
    assert read_upload(b"bytes", content_type) == Upload((b"bytes",))


@pytest.mark.parametrize(
    "file",
    [
        part(FILE, IMAGE),
        part(FILE, IMAGE, b"Content-Type: image/jpeg", b"Content-Length: 5"),
        part(b"form-data; name=file; filename=a.jpg", IMAGE, b"content-type:IMAGE/JPEG"),
        part(b"form-data; name=\"image\"; filename*=UTF-8''%e2%82%ac.jpg", IMAGE),
        part(b'form-data; name="image"; filename=""', IMAGE),
        part(b'form-data; name="image"', IMAGE, b"Content-Type: image/jpeg"),
        part(b'form-data; name="image"', IMAGE, b"Content-Type: application/octet-stream"),
        part(b'form-data; name="file"', IMAGE),
        part(b'form-data; name="file"', IMAGE, b"Content-Type: text/plain"),
        part(b'form-data; name="a;\\"b"; filename="\xc3\xa4;.jpg"', IMAGE),
        part(b'form-data;\r\n name="image"; filename="folded.jpg"', IMAGE),
        part(FILE, IMAGE, b"Content-Transfer-Encoding: binary"),
        b"--edge \t" + part(FILE, IMAGE).removeprefix(b"--edge"),
    ],
)
def test_a_file_is_found_however_a_client_declares_it(file: bytes) -> None:
    assert read(file) == Upload((IMAGE,))


@pytest.mark.parametrize(
    "beside",
    [
        part(
            b'form-data; name="more"; filename=""', b"", b"Content-Type: application/octet-stream"
        ),
        part(b'form-data; name="meta"', b' {"a": 1}', b"Content-Type: application/json"),
        part(b'form-data; name="meta"; filename="blob"', b"{}", b"Content-Type: application/json"),
        part(b'form-data; name="note"; filename="a.txt"', b"text", b"Content-Type: text/plain"),
        b"a preamble that nobody reads\r\n",
        b"\r\n",
    ],
    ids=["empty input", "JSON", "JSON blob", "text file", "preamble", "empty line"],
)
def test_what_comes_beside_the_file_does_not_count(beside: bytes) -> None:
    assert read(beside, part(FILE, IMAGE)).only_file() == IMAGE


def test_an_epilogue_does_not_count() -> None:
    assert read_upload(form(part(FILE, IMAGE)) + part(FILE, b"more"), FORM).files == (IMAGE,)


def test_fields_are_parameters_of_any_client() -> None:
    upload = read(
        part(b'form-data; name="deadline_ms"', b"5"),
        part(FILE, IMAGE),
        part(
            b'form-data; name="on_miss"', b"refuse\r\n", b"Content-Type: text/plain; charset=UTF-8"
        ),
        part(b'form-data; name="top_k"', b"1", b"Content-Type: application/json"),
    )

    assert upload.files == (IMAGE,)
    assert upload.fields == (("deadline_ms", "5"), ("on_miss", "refuse"), ("top_k", "1"))


def test_several_files_keep_their_order() -> None:
    upload = read(part(FILE, b"one"), part(FILE, b"two"))

    assert upload.files == (b"one", b"two")
    with pytest.raises(InvalidUpload, match="holds 2 files"):
        upload.only_file()


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="edge"',
        b"Multipart/Form-Data; charset=utf-8; BOUNDARY=edge",
        b"multipart/form-data;boundary=edge",
    ],
)
def test_the_boundary_is_found_however_it_is_written(content_type: bytes) -> None:
    assert read_upload(form(part(FILE, IMAGE)), content_type).files == (IMAGE,)


@pytest.mark.parametrize(
    ("content_type", "body", "detail"),
    [
        (FORM, form(), "holds 0 files"),
        (FORM, b"no form at all", "boundary that ends it is missing"),
        (FORM, form(part(FILE, IMAGE))[:-10], "boundary that ends it is missing"),
        (FORM, form(b"--edge\r\nno headers\r\n"), "no end of its headers"),
        (FORM, form(b"--edge\r\nnot a header\r\n\r\n\r\n"), "is no header"),
        (FORM, form(part(FILE, b"")[:-2] + b"\r\n").replace(b"\r\n", b"\n"), "missing"),
        (FORM, form(part(FILE, b"QQ==", b"Content-Transfer-Encoding: base64")), "'base64'"),
        (FORM, form(part(b'form-data; name="deadline_ms"', bytes(1000))), "1000 bytes, the limit"),
        (FORM, form(*[part(FILE, b"one")] * 65), "more parts than 64"),
        (b"multipart/form-data", form(part(FILE, b"one")), "must name its boundary"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(
    content_type: bytes, body: bytes, detail: str
) -> None:
    with pytest.raises(InvalidUpload, match=detail):
        read_upload(body, content_type).only_file()


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b" BR", b"zstd", b"gzip, br"])
def test_a_packed_body_is_refused_by_the_name_of_its_encoding(encoding: bytes) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        read_upload(b"bytes", b"", encoding)

    assert caught.value.members["encoding"] == encoding.decode().strip().lower()
    assert caught.value.headers == {"Accept-Encoding": "identity"}


@given(st.binary(max_size=200).map(lambda body: body.replace(b"?", b"\r\n--edge")))
def test_any_form_is_read_or_refused(body: bytes) -> None:
    try:
        upload = read_upload(b"--edge\r\n" + body + b"\r\n--edge--", FORM)
    except InvalidUpload:
        return
    assert all(isinstance(file, bytes) for file in upload.files)
