"""The page in a real Chromium: what a visitor does, and that no other host is asked."""

import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from service.front.access.keys import KeyEntry, write_entry
from tests.server import ROOT, ServerProcess, started

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
    pytest.mark.skipif(
        find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
        reason="needs axe-playwright-python",
    ),
]
if find_spec("playwright") is not None:
    from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
KITTEN = ROOT / "docs/samples/kitten.webp"
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server of its own: one that is loaded."""
    # A busy machine answers late, and the page tells; it does not refuse.
    with started({"warm_up_s": 0.5, "log_sample": 0, "max_lateness": 100_000}) as server:
        server.wait_for("ready")
        assert server.process.stdout is not None
        Thread(target=server.process.stdout.read, daemon=True).start()
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "Browser", server: ServerProcess) -> Iterator[Open]:
    """Open the page as some visitor, answered once; it must have asked no other host, and complained of nothing."""
    contexts, asked, complaints = [], [], []
    host = server.client.base_url.netloc.decode()

    def open_page(path: str = "/", **visitor: Any) -> "Page":
        contexts.append(browser.new_context(**visitor))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"http://{host}{path}")
        if path == "/":
            expect(page.locator("tr.last")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((f"http://{host}/", "data:", "blob:"))] == []
    assert [text for text in complaints if "415" not in text] == []  # which a test provokes


def move_deadline(page: "Page", key: str) -> None:
    """Press a key on the slider, and wait for the answer to it."""
    page.focus("#deadline")
    with page.expect_response(lambda reply: "/classify/stream" in reply.url):
        page.keyboard.press(key)


def test_a_visitor_sees_an_answer_sharpen_and_what_gave_it(visit: Open) -> None:
    page = visit()

    expect(page.locator("h1")).to_have_text("The most accurate answer that fits in your deadline.")
    expect(page.locator("#many")).to_have_text("seven")
    assert page.locator("#steps tr").count() >= 1
    assert page.locator("#bars li").count() == 5
    assert page.locator("#front circle.point, #front circle.out").count() == 7
    expect(page.locator("#front circle.ring")).to_have_count(1)
    expect(page.locator("#strip rect")).to_have_count(1)


def test_a_sample_is_answered(visit: Open) -> None:
    page = visit()

    page.get_by_role("button", name="horses").click()

    expect(page.locator("#label")).to_have_text("horse")
    expect(page.get_by_role("button", name="horses")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#code")).to_contain_text("samples/horses.jpg")


def test_the_deadline_reaches_both_ends_by_keyboard(visit: Open) -> None:
    page = visit()

    move_deadline(page, "Home")
    expect(page.locator("#limit")).to_have_text("0.2 ms")
    expect(page.locator("#verdict")).to_contain_text("late")
    expect(page.locator("#steps tr")).to_have_count(1)

    move_deadline(page, "End")
    expect(page.locator("#limit")).to_have_text("200 ms")
    expect(page.locator("#verdict")).to_contain_text("in time")
    expect(page.locator("#how")).to_contain_text("by wide-full")
    expect(page.locator("#label")).to_have_text("cat")
    assert page.locator("#steps tr").count() > 1
    expect(page.locator("#deadline")).to_have_attribute("aria-valuetext", "200 milliseconds")


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_of_one_s_own_is_answered(visit: Open, way: str) -> None:
    page = visit()
    content = list(KITTEN.read_bytes())

    if way == "choose":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="choose one").click()
        chooser.value.set_files(
            {"name": "it's.webp", "mimeType": "image/webp", "buffer": bytes(content)}
        )
    else:
        page.evaluate(
            """([way, content]) => {
              const files = new DataTransfer();
              files.items.add(new File([new Uint8Array(content)], "it's.webp", {type: "image/webp"}));
              const event = way === "drop" ? new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: files, bubbles: true});
              document.body.dispatchEvent(event);
            }""",
            [way, content],
        )

    expect(page.locator("#shown")).to_have_attribute("alt", "it's.webp")
    expect(page.locator("#code")).to_contain_text("--data-binary @'it'\\''s.webp'")
    expect(page.locator("tr.last")).to_be_visible()


def test_a_large_photograph_is_shrunk_before_it_is_sent(visit: Open) -> None:
    page = visit()
    file = BytesIO()
    Image.effect_noise((1200, 900), 90).convert("RGB").save(file, "JPEG", quality=90)

    with page.expect_request(lambda request: "/classify/stream" in request.url):
        page.set_input_files(
            "#camera", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()}
        )

    expect(page.locator("#note")).to_have_text("Sent at 512 × 384.")


def test_an_error_is_told_and_the_next_answer_ends_it(visit: Open) -> None:
    page = visit()

    page.set_input_files(
        "#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no image"}
    )
    expect(page.locator("#label")).to_have_text("Not an image")
    expect(page.get_by_role("alert")).to_contain_text("8 bytes")
    expect(page.locator("#how")).to_have_text("415 · not-an-image")
    expect(page.locator("#shown")).to_be_hidden()

    page.get_by_role("button", name="moose").click()
    expect(page.locator("#label")).to_have_text("deer")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_load_is_turned_on_and_off(visit: Open, server: ServerProcess) -> None:
    page = visit()
    move_deadline(page, "End")

    page.get_by_label("0.25 times").check()
    expect(page.locator("#load-title")).to_contain_text("requests a second", timeout=20_000)
    expect(page.locator("#answered")).to_contain_text("/s", timeout=20_000)
    expect(page.locator("#accuracy")).to_contain_text("%")
    assert page.locator("#mix i").count() >= 1
    assert page.locator("#strip rect").count() > 2

    page.get_by_label("off").check()
    expect(page.locator("#answered")).to_have_text("–")
    assert server.client.get("/load").json()["times"] == 0


def test_what_is_on_the_screen_can_be_had_as_code(visit: Open, server: ServerProcess) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    move_deadline(page, "End")  # the client gives up at the deadline, and this machine may be busy

    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#copied")).to_have_text("Copied")
    curl = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("tab", name="curl").press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    python = page.locator("#code").inner_text()

    assert curl.endswith(f"'{server.client.base_url}/classify?deadline_ms=200'")
    assert "client.classify(image, deadline_ms=200)" in python
    namespace: dict[str, Any] = {}
    exec(compile(python, "page", "exec"), namespace)
    assert namespace["answer"].deadline_ms == 200


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    visit: Open, scheme: str, width: int
) -> None:
    page = visit(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )

    # Not by a script element: the page's policy forbids those.
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")

    assert [
        (each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]
    ] == []
    expect(page.locator("#steps .by").first).to_be_visible()
    page.evaluate("document.querySelector('#steps .by').append('narrow-column-2-mirrored')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate(
            "getComputedStyle(document.querySelector('.fill') ?? document.body).transitionDuration"
        )
        == "0s"
    )
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (
        sum(json.loads(background.removeprefix("rgb").replace("(", "[").replace(")", "]"))) < 380
    ) is (scheme == "dark")


def test_the_page_of_a_model_asks_that_model(visit: Open) -> None:
    page = visit("/?model=cifar10")

    expect(page.locator("tr.last")).to_be_visible()
    expect(page.locator("#bundle")).to_have_text("cifar10 on cpu")
    expect(page.locator("#code")).to_contain_text("/classify?model=cifar10&deadline_ms=")
    expect(page.locator("#models a")).to_have_count(0)  # there is no other


def test_who_has_a_key_enters_it_and_it_stays_in_this_tab(
    browser: "Browser", tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    digest = sha256(b"mine").hexdigest()
    entry = KeyEntry.model_validate({"sha256": digest, "scopes": ["classify"]})
    keys.write_text(write_entry("mine", entry))

    with started({"keys_file": keys, "log_sample": 0, "max_lateness": 100_000}) as server:
        server.wait_for("ready")
        context = browser.new_context()
        page, url = context.new_page(), str(server.client.base_url)
        reply = page.goto(url)
        assert reply is not None
        assert reply.status == 401
        expect(page.get_by_role("region", name="Answer")).to_be_hidden()
        for key, told in (("wrong", "does not know"), ("ключ", "can be no key")):
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Open").click()
            expect(page.locator("#unlock-note")).to_contain_text(told)
        page.get_by_label("API key").fill("mine")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("tr.last")).to_be_visible()
        for picture in page.locator("#samples img").all():
            expect(picture).not_to_have_js_property("naturalWidth", 0)
        expect(page.locator("#code")).to_contain_text("$KEY")
        page.reload()
        expect(page.locator("tr.last")).to_be_visible()
        other = context.new_page()
        other.goto(url)
        expect(other.get_by_label("API key")).to_be_visible()
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_label("API key")).to_be_visible()
        context.close()


def test_the_documentation_is_drawn(visit: Open) -> None:
    page = visit("/docs")

    expect(page.locator(".opblock")).to_have_count(10)
    page.locator(
        "#operations-default-classify_classify_post summary, .opblock-summary"
    ).first.click()
    expect(page.get_by_text("deadline_ms").first).to_be_visible()
