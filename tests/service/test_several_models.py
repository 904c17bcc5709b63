"""Several models on one server: asked by name, over every way in, and told apart in what is told of them."""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from model.bundle import Bundle, read_bundle
from service.cli.app import app
from service.client import Client, InvalidParameter
from service.settings import SettingsError, read_settings
from tests.server import ServerProcess, started
from tests.service.bundles import amend_manifest
from tests.service.front.test_stream import stream
from tests.service.test_reload import constant_requests

KEY = "a key of the tests"
FAST, BEST = "narrow-column-1", "wide-full"


@pytest.fixture(scope="module")
def letters(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same network with other labels, and one subnetwork less."""
    folder = shutil.copytree(bundle.folder, tmp_path_factory.mktemp("models") / "letters")
    kept = [each for each in bundle.manifest.subnetworks if each.name != BEST]
    amend_manifest(
        folder,
        labels=list("abcdefghij"),
        subnetworks=[each.model_dump() for each in kept],
    )
    return read_bundle(folder)


@pytest.fixture(scope="module")
def both(bundle: Bundle, letters: Bundle) -> Iterator[ServerProcess]:
    bundles = f"photos={bundle.folder}, letters = {letters.folder}"
    with started({"bundles": bundles, "admin_key": KEY, "warm_up_s": 0.05}) as server:
        server.wait_for("ready")
        yield server


def test_a_request_is_answered_by_the_model_that_it_names(
    both: ServerProcess, bundle: Bundle, letters: Bundle, jpeg: bytes
) -> None:
    for model, named, of in (
        ("photos", {"model": "photos"}, bundle),
        ("letters", {"model": "letters"}, letters),
        ("photos", {}, bundle),
    ):
        answer = both.classify(jpeg, deadline_ms=60_000, **named).json()

        assert answer["bundle"] == {"name": model, "digest": of.digest}
        assert answer["label"] in of.manifest.labels


def test_a_form_and_a_stream_name_it_too(both: ServerProcess, jpeg: bytes) -> None:
    form = both.client.post("/classify", files={"file": jpeg}, data={"model": "letters"})
    events = stream(both, jpeg, model="letters", deadline_ms=200)

    assert form.json()["bundle"]["name"] == "letters"
    assert {each["bundle"]["name"] for each in events} == {"letters"}


def test_each_model_has_its_own_subnetworks(both: ServerProcess, jpeg: bytes) -> None:
    with Client(str(both.client.base_url)) as client:
        listed = {name: client.subnetworks(name) for name in ("photos", "letters")}
        with pytest.raises(InvalidParameter):
            client.classify(jpeg, model="letters", subnetwork=BEST)
        assert client.classify(jpeg, model="photos", subnetwork=BEST).subnetwork == BEST

    assert {each.models for each in listed.values()} == {("photos", "letters")}
    names = {model: {each.name for each in of.subnetworks} for model, of in listed.items()}
    assert names["photos"] - names["letters"] == {BEST}


@pytest.mark.parametrize("path", ["/classify", "/subnetworks", "/admin/reload"])
def test_a_model_that_is_not_there_is_refused_with_those_that_are(
    both: ServerProcess, path: str, jpeg: bytes
) -> None:
    method = "GET" if path == "/subnetworks" else "POST"
    headers = {"Authorization": f"Bearer {KEY}"}

    reply = both.client.request(
        method, path, params={"model": "birds"}, content=jpeg, headers=headers
    )

    assert reply.status_code == 422
    assert reply.json()["detail"] == "model is 'birds'; it must be one of photos, letters"


def test_metrics_and_labels_are_of_a_model(both: ServerProcess, jpeg: bytes) -> None:
    def value(name: str, model: str) -> float:
        series = f'{{model="{model}",subnetwork="{FAST}",verdict="right"}}'
        return both.metrics()[f"{name}{series}"]

    before = {each: value("anytime_labelled_total", each) for each in ("photos", "letters")}
    answer = both.classify(jpeg, model="letters", subnetwork=FAST, deadline_ms=60_000).json()
    label = {"request_id": answer["request_id"], "label": answer["label"]}

    assert both.client.post("/feedback", json={**label, "label": "cat"}).status_code == 422
    assert both.client.post("/feedback", json=label).json()["is_right"]
    after = {each: value("anytime_labelled_total", each) for each in ("photos", "letters")}
    assert after == {"photos": before["photos"], "letters": before["letters"] + 1}


def test_what_has_no_answer_is_counted_with_its_model(both: ServerProcess) -> None:
    series = 'anytime_requests_total{{model="{}",outcome="invalid",subnetwork="none"}}'
    before = both.metrics()

    both.classify(b"no image", model="letters")
    both.classify(b"no image", model="birds")

    after = both.metrics()
    for model, more in (("letters", 1), ("none", 1), ("photos", 0)):
        name = series.format(model)
        assert after[name] == before[name] + more


def test_the_open_inference_protocol_has_a_path_for_each(
    both: ServerProcess, letters: Bundle
) -> None:
    index = both.client.post("/v2/repository/index").json()
    side = letters.manifest.preprocessing.size
    body = {
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [1, side, side, 3],
                "data": [0] * (3 * side * side),
            }
        ]
    }

    reply = both.client.post("/v2/models/letters/infer", json=body)

    assert [each["name"] for each in index] == ["photos", "letters"]
    assert reply.json()["model_name"] == "letters"
    assert both.client.get("/v2/models/letters").json()["name"] == "letters"
    assert both.client.get("/v2/models/letters/ready").json() == {"name": "letters", "ready": True}
    assert both.client.get("/v2/models/birds").status_code == 404
    stats = both.client.get("/v2/models/stats").json()["model_stats"]
    assert [each["name"] for each in stats] == ["photos", "letters"]
    (own,) = both.client.get("/v2/models/letters/stats").json()["model_stats"]
    assert own["inference_count"] > 0


def test_one_model_is_reloaded_and_the_other_stays(
    bundle: Bundle, letters: Bundle, tmp_path: Path, jpeg: bytes
) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle.folder)
    bundles = f"photos={bundle.folder},other={link}"
    settings = {"bundles": bundles, "admin_key": KEY, "warm_up_s": 0.01, "max_batch": 2}
    with started(settings) as server:
        server.wait_for("ready")
        fresh = tmp_path / "fresh"
        fresh.symlink_to(letters.folder)
        fresh.rename(link)
        headers = {"Authorization": f"Bearer {KEY}"}

        reply = server.client.post("/admin/reload", params={"model": "other"}, headers=headers)

        assert reply.json()["bundle"] == {"name": "other", "digest": letters.digest}
        assert server.classify(jpeg, model="other").json()["bundle"]["digest"] == letters.digest
        assert server.classify(jpeg).json()["bundle"]["digest"] == bundle.digest


@pytest.mark.parametrize(
    ("bundles", "reason"),
    [
        ("photos", "'photos' is no name=folder"),
        ("photos=", "'photos=' is no name=folder"),
        ("pho tos=x", "'pho tos=x' is no name=folder"),
        ("a=x,b=y,a=z", "two are called a"),
    ],
)
def test_models_that_cannot_be_named_so_are_refused_in_one_line(bundles: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read_settings({"bundles": bundles})


@pytest.fixture(scope="module")
def tried(bundle: Bundle, letters: Bundle) -> Iterator[ServerProcess]:
    """A server that tries another bundle beside the model's own."""
    bundles = f"photos={bundle.folder},photos@0.05={letters.folder}"
    with started({"bundles": bundles, "admin_key": KEY, "warm_up_s": 0.05}) as server:
        server.wait_for("ready")
        yield server


def set_share(server: ServerProcess, share: object, **query: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return server.client.post("/admin/canary", params={"share": share, **query}, headers=headers)  # type: ignore[dict-item]


def digest_of(server: ServerProcess, jpeg: bytes, request_id: str) -> str:
    reply = server.client.post(
        "/classify?deadline_ms=10000", content=jpeg, headers={"X-Request-ID": request_id}
    )
    answer = reply.json()
    assert (reply.status_code, answer["bundle"]["name"]) == (200, "photos")
    digest: str = answer["bundle"]["digest"]
    return digest


def test_a_canary_is_promoted_and_rolled_back_under_load_and_nothing_is_lost(
    tried: ServerProcess, bundle: Bundle, letters: Bundle, jpeg: bytes
) -> None:
    own, canary = bundle.digest, letters.digest
    with constant_requests(tried, jpeg) as responses:
        digests = [digest_of(tried, jpeg, f"request-{n}") for n in range(100)]
        assert 0 < digests.count(canary) < 20  # of 5 %; the ids are always these
        assert digests == [digest_of(tried, jpeg, f"request-{n}") for n in range(100)]

        assert set_share(tried, 1).json() == {
            "model": "photos",
            "share": 1.0,
            "bundle": {"name": "photos", "digest": own},
            "canary": {"name": "photos", "digest": canary},
        }
        assert {digest_of(tried, jpeg, f"request-{n}") for n in range(20)} == {canary}

        assert set_share(tried, 0).status_code == 200
        assert {digest_of(tried, jpeg, f"request-{n}") for n in range(20)} == {own}

    assert {each.status_code for each in responses} == {200}
    labels = {own: bundle.manifest.labels, canary: letters.manifest.labels}
    for each in responses:
        assert each.json()["label"] in labels[each.json()["bundle"]["digest"]]


def test_a_promoted_canary_stays_so_when_engine_and_fronts_are_started_again(
    tried: ServerProcess, letters: Bundle, jpeg: bytes
) -> None:
    set_share(tried, 1)
    for part in ("engine", "front"):
        tried.signal(part, signal.SIGKILL)
    tried.close_clients()
    tried.wait_for("ready")

    assert digest_of(tried, jpeg, "after") == letters.digest
    set_share(tried, 0.05)


def test_both_bundles_can_be_asked_and_told_apart(
    tried: ServerProcess, bundle: Bundle, letters: Bundle, jpeg: bytes
) -> None:
    for name, of in (("photos", bundle), ("photos@canary", letters)):
        answer = tried.classify(jpeg, model=name, subnetwork=FAST).json()
        if name == "photos@canary":
            assert answer["bundle"]["digest"] == of.digest
        label = {"request_id": answer["request_id"], "label": answer["label"]}
        assert tried.client.post("/feedback", json=label).json()["is_right"]
        assert tried.client.get(f"/v2/models/photos/versions/{of.digest}").status_code == 200
    versions = tried.client.post("/v2/repository/index").json()
    assert [each["version"] for each in versions] == [bundle.digest, letters.digest]
    metadata = tried.client.get("/v2/models/photos").json()
    assert metadata["versions"] == [bundle.digest, letters.digest]
    assert tried.client.get("/subnetworks").json()["models"] == ["photos"]
    metrics = tried.metrics()
    assert metrics['anytime_canary_share_ratio{model="photos@canary"}'] == 0.05


def test_one_command_shows_both_and_changes_the_share(
    tried: ServerProcess, bundle: Bundle, letters: Bundle, jpeg: bytes
) -> None:
    url = str(tried.client.base_url)
    tried.classify(jpeg, model="photos@canary")

    def run(*arguments: str) -> Result:
        key = {"ANYTIME_ADMIN_KEY": KEY}
        return CliRunner().invoke(app, ["canary", url, *arguments], env=key)

    def say(*arguments: str) -> str:
        return run(*arguments).output

    assert re.search(rf"^photos +{bundle.digest[:12]} +95%", say(), re.MULTILINE)
    promoted = say("--promote")
    assert re.search(rf"^photos@canary +{letters.digest[:12]} +100%", promoted, re.MULTILINE)
    assert re.search(r"^photos@canary .* 0%", say("--roll-back"), re.MULTILINE)
    assert run("--share", "2").exit_code == run("--promote", "--roll-back").exit_code == 2


def test_a_share_needs_a_canary_and_a_number(both: ServerProcess, tried: ServerProcess) -> None:
    for share in ("", "2", "nan", "-0.1", "x"):
        reply = set_share(tried, share)
        assert (reply.status_code, reply.json()["parameter"]) == (422, "share")
    reply = set_share(both, 1, model="letters")
    assert reply.status_code == 404
    assert reply.json()["detail"].startswith("letters has no canary")


@pytest.mark.parametrize(
    ("bundles", "reason"),
    [
        ("a@0.05=x", "there is no a=folder for its canary"),
        ("a=x,a@2=y", "the share of 'a@2' is no number from 0 to 1"),
        ("a=x,a@0.1=y,a@0.2=z", "two are called a@canary"),
    ],
)
def test_canaries_that_cannot_be_are_refused_in_one_line(bundles: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read_settings({"bundles": bundles})
