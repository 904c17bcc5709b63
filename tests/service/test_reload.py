"""Another bundle without a restart: the real server under requests that never pause."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from select import select

import httpx
import pytest

from model.bundle import Bundle, read_bundle
from tests.server import ServerProcess
from tests.service.bundles import amend_manifest, break_graph

StartServer = Callable[..., ServerProcess]

KEY = "a key of the tests: κλειδί"
ADMIN = {b"Authorization": f"Bearer {KEY}".encode()}


@pytest.fixture
def next_bundle(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same network under another name, with other labels."""
    folder = shutil.copytree(bundle.folder, tmp_path / "next")
    amend_manifest(folder, name="next", labels=[f"next-{each}" for each in bundle.manifest.labels])
    return read_bundle(folder)


@pytest.fixture
def link(bundle: Bundle, tmp_path: Path) -> Path:
    """What ANYTIME_BUNDLE_DIR names: a link to the bundle."""
    link = tmp_path / "current"
    link.symlink_to(bundle.folder)
    return link


def point(link: Path, bundle: Bundle) -> None:
    """Let the link lead to a bundle."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(bundle.folder)
    fresh.rename(link)


def name_of(bundle: Bundle) -> dict[str, str]:
    return {"name": bundle.manifest.name, "digest": bundle.digest}


def reload(server: ServerProcess) -> httpx.Response:
    return server.client.post("/admin/reload", headers=ADMIN)


@pytest.fixture
def reloadable(start_server: StartServer, link: Path) -> ServerProcess:
    """A server whose bundle can be replaced, warm."""
    server = start_server(bundle_dir=link, admin_key=f"{KEY}\n", warm_up_s=0.01, max_batch=2)
    server.wait_for("ready")
    return server


@contextmanager
def constant_requests(server: ServerProcess, jpeg: bytes) -> Iterator[list[httpx.Response]]:
    """Ask without a pause, from several clients, until the block ends."""
    responses: list[httpx.Response] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            responses.append(server.classify(jpeg, top_k=3, deadline_ms=60_000))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield responses
    finally:
        ended.set()
        for client in clients:
            client.join()


def test_no_request_fails_or_is_answered_from_two_bundles_while_they_are_replaced(
    reloadable: ServerProcess, link: Path, bundle: Bundle, next_bundle: Bundle, jpeg: bytes
) -> None:
    with constant_requests(reloadable, jpeg) as responses:
        for before, now in [(bundle, next_bundle), (next_bundle, bundle), (bundle, next_bundle)]:
            point(link, now)
            reply = reload(reloadable)
            assert reply.status_code == 200
            assert reply.json() == {"bundle": name_of(now), "before": name_of(before)}
            assert reloadable.classify(jpeg).json()["bundle"] == name_of(now)

    labels = {each.digest: each.manifest.labels for each in (bundle, next_bundle)}
    assert {each.status_code for each in responses} == {200}
    answers = [each.json() for each in responses]
    assert {each["bundle"]["digest"] for each in answers} == set(labels)
    for answer in answers:
        of_bundle = labels[answer["bundle"]["digest"]]
        for candidate in answer["top"]:
            assert candidate["label"] == of_bundle[candidate["class_id"]]


def test_metrics_and_subnetworks_name_the_bundle_that_answers(
    reloadable: ServerProcess, link: Path, next_bundle: Bundle
) -> None:
    point(link, next_bundle)
    reload(reloadable)

    metrics = reloadable.metrics()
    infos = [name for name in metrics if name.startswith("anytime_bundle_info")]
    assert infos == [
        f'anytime_bundle_info{{digest="{next_bundle.digest}",model="next",name="next"}}'
    ]
    assert metrics['anytime_queue_depth{model="next"}'] == 0
    assert metrics['anytime_reloads_total{model="next",outcome="replaced"}'] == 1
    assert reloadable.client.get("/subnetworks").json()["bundle"] == name_of(next_bundle)


def test_a_network_with_other_subnetworks_can_follow(
    reloadable: ServerProcess, link: Path, next_bundle: Bundle, jpeg: bytes
) -> None:
    only = next_bundle.manifest.subnetworks[0]
    amend_manifest(next_bundle.folder, subnetworks=[only.model_dump()])
    point(link, next_bundle)

    reload(reloadable)

    assert reloadable.classify(jpeg).json()["subnetwork"] == only.name
    refused = reloadable.classify(jpeg, subnetwork="wide-full")
    assert refused.json()["allowed"] == f"one of {only.name}"


def damage_weights(bundle: Bundle) -> str:
    path = bundle.folder / bundle.manifest.weights.name
    path.write_bytes(path.read_bytes()[:-1])
    return rf"{path}: is \d+ bytes, .*"


def put_no_onnx(bundle: Bundle) -> str:
    return rf"{break_graph(bundle.folder)}: .*"


def drop_label(bundle: Bundle) -> str:
    """List a label fewer than the graphs have classes."""
    amend_manifest(bundle.folder, labels=bundle.manifest.labels[1:])
    classes = len(bundle.manifest.labels)
    return rf"{bundle.folder}: .* gives \(2, {classes}\) .* {classes - 1} labels"


@pytest.mark.parametrize("spoil", [damage_weights, put_no_onnx, drop_label])
def test_a_bad_bundle_leaves_the_old_one_serving_and_says_why(
    reloadable: ServerProcess,
    link: Path,
    bundle: Bundle,
    next_bundle: Bundle,
    jpeg: bytes,
    spoil: Callable[[Bundle], str],
) -> None:
    reason = spoil(next_bundle)
    point(link, next_bundle)

    with constant_requests(reloadable, jpeg) as responses:
        problem = reload(reloadable)

    assert problem.status_code == 422
    assert problem.json()["type"] == "/problems/bundle-unusable"
    assert problem.json()["bundle"] == name_of(bundle)
    assert re.fullmatch(reason, problem.json()["detail"])
    responses.append(reloadable.classify(jpeg))
    assert {each.status_code for each in responses} == {200}
    assert {each.json()["bundle"]["digest"] for each in responses} == {bundle.digest}
    assert reloadable.metrics()['anytime_reloads_total{model="cifar10",outcome="failed"}'] == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file system of its own, and the file that is its disk: what is cut off it can be read no more."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    folder.mkdir()
    mount = ["mount", "-o", "loop", str(image), str(folder)]
    for command in (["mkfs.ext4", "-q", str(image)], mount):
        if shutil.which(command[0]) is None or subprocess.run(command).returncode:
            pytest.skip("needs root and a loop device")
    yield folder, image
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fails_leaves_the_bundle_serving_and_says_why(
    disk: tuple[Path, Path], start_server: StartServer, bundle: Bundle, jpeg: bytes
) -> None:
    folder, image = disk
    shutil.copytree(bundle.folder, folder / "bundle")
    server = start_server(bundle_dir=folder / "bundle", admin_key=KEY, fronts=1)
    server.wait_for("ready")
    os.sync()
    for path in (folder / "bundle").iterdir():
        with path.open("rb") as file:  # what is kept of it in memory is forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    os.truncate(image, 1 << 20)

    problem = reload(server)

    assert problem.status_code == 422
    assert "Input/output error" in problem.json()["detail"]
    assert server.wait_for("reload")["outcome"] == "failed"
    assert server.classify(jpeg, deadline_ms=60_000).json()["bundle"] == name_of(bundle)
    assert server.client.get("/health/ready").status_code == 200
    assert server.metrics()['anytime_reloads_total{model="cifar10",outcome="failed"}'] == 1


def test_the_same_bundle_is_not_loaded_again(reloadable: ServerProcess, bundle: Bundle) -> None:
    assert reload(reloadable).json() == {"bundle": name_of(bundle), "before": name_of(bundle)}

    assert reloadable.metrics()['anytime_reloads_total{model="cifar10",outcome="unchanged"}'] == 1


def test_a_reload_needs_the_key(reloadable: ServerProcess) -> None:
    for sent in (None, "", "Bearer", "Bearer wrong", KEY, f"Basic {KEY}"):
        headers = {} if sent is None else {b"Authorization": sent.encode()}
        response = reloadable.client.post("/admin/reload", headers=headers)

        assert response.status_code == 401
        assert response.json()["type"] == "/problems/unauthorized"
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{}, ADMIN, {b"Authorization": b"Bearer"}])
def test_without_a_key_there_is_no_reload(
    server: ServerProcess, headers: dict[bytes, bytes]
) -> None:
    response = server.client.post("/admin/reload", headers=headers)

    assert response.status_code == 404
    assert response.json()["type"] == "/problems/not-found"
    assert "ANYTIME_ADMIN_KEY" in response.json()["detail"]


def test_labels_of_answers_from_before_are_not_counted_with_the_new_bundles(
    reloadable: ServerProcess, link: Path, next_bundle: Bundle, jpeg: bytes
) -> None:
    answer = reloadable.classify(jpeg, subnetwork="narrow-column-1").json()
    point(link, next_bundle)
    assert reload(reloadable).status_code == 200

    label = {"request_id": answer["request_id"], "label": answer["label"]}
    reply = reloadable.client.post("/feedback", json=label)

    assert reply.status_code == 200
    assert reply.json()["is_right"]
    metrics = reloadable.metrics()
    assert metrics['anytime_feedback_total{outcome="replaced"}'] == 1
    assert (
        metrics['anytime_labelled_total{model="next",subnetwork="narrow-column-1",verdict="right"}']
        == 0
    )


def test_one_reload_at_a_time(start_server: StartServer, link: Path, next_bundle: Bundle) -> None:
    server = start_server(bundle_dir=link, admin_key=KEY, warm_up_s=2, max_batch=2)
    server.wait_for("ready")
    point(link, next_bundle)

    with ThreadPoolExecutor() as clients:
        replies = list(clients.map(lambda _: reload(server), range(2)))

    assert {each.status_code for each in replies} == {200, 409}
    (refused,) = (each for each in replies if each.status_code == 409)
    assert refused.json()["type"] == "/problems/reload-under-way"


def test_sighup_reloads(reloadable: ServerProcess, link: Path, next_bundle: Bundle) -> None:
    point(link, next_bundle)

    reloadable.process.send_signal(signal.SIGHUP)

    event = reloadable.wait_for("reload")
    assert event["outcome"] == "replaced"
    assert event["bundle"] == name_of(next_bundle)


def test_sighup_during_start_up_reloads_after_it(
    start_server: StartServer, link: Path, next_bundle: Bundle
) -> None:
    server = start_server(bundle_dir=link, warm_up_s=0.2, max_batch=2)
    server.wait_for("listening")
    point(link, next_bundle)

    server.process.send_signal(signal.SIGHUP)

    server.wait_for("ready")
    assert server.wait_for("reload")["bundle"] == name_of(next_bundle)


def test_sighup_with_a_bad_bundle_says_why_in_the_log(
    reloadable: ServerProcess, link: Path, next_bundle: Bundle
) -> None:
    reason = damage_weights(next_bundle)
    point(link, next_bundle)

    reloadable.process.send_signal(signal.SIGHUP)

    event = reloadable.wait_for("reload")
    assert (event["outcome"], event["level"]) == ("failed", "error")
    assert re.fullmatch(reason, event["reason"])


def test_sighup_goes_on_working_after_a_folder_that_cannot_be_told_from_itself(
    reloadable: ServerProcess, link: Path, next_bundle: Bundle
) -> None:
    link.unlink()
    link.symlink_to(link)
    reloadable.process.send_signal(signal.SIGHUP)
    assert reloadable.wait_for("reload")["outcome"] == "failed"

    link.unlink()
    point(link, next_bundle)
    reloadable.process.send_signal(signal.SIGHUP)

    assert reloadable.wait_for("reload")["bundle"] == name_of(next_bundle)


def test_sigterm_ends_a_reload(start_server: StartServer, link: Path, next_bundle: Bundle) -> None:
    server = start_server(bundle_dir=link, admin_key=KEY, warm_up_s=100)
    server.wait_for("ready")
    point(link, next_bundle)
    request = f"POST /admin/reload HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    pair = [socket.create_connection(server.address, timeout=60) for _ in range(2)]
    for connection in pair:
        connection.sendall(request.encode())
    (refused, *_), _, _ = select(pair, [], [], 60)
    assert refused.recv(4096).startswith(b"HTTP/1.1 409 ")  # the other one is under way
    (loading,) = set(pair) - {refused}

    server.terminate()

    assert loading.recv(4096).startswith(b"HTTP/1.1 503 ")
    for connection in pair:
        connection.close()
    assert server.end() == (0, "")
