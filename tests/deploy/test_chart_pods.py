"""The pods of the Helm chart: what they may do, and what they are told."""

from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from service import __version__
from service.settings import read_settings
from tests.deploy.chart import GPU, VALUES, Document, environment_of, pod_of, render
from tests.server import started
from tests.service.conftest import free_port


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_pod_meets_the_restricted_standard(values: Document) -> None:
    pod = pod_of(render(values))

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(
        {"emptyDir", "persistentVolumeClaim", "secret"} & volume.keys() for volume in pod["volumes"]
    )
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_traces_go_where_opentelemetrys_variables_say() -> None:
    environment = environment_of(render(VALUES["traced"]))

    assert environment["ANYTIME_TRACE_SAMPLE"] == "0.1"
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, f":{__version__}-cpu"),
        ({"variant": "gpu"}, f":{__version__}-gpu"),
        ({"tag": "mine"}, ":mine"),
        ({"tag": "sha256:" + "0" * 64}, "@sha256:" + "0" * 64),
    ],
)
def test_image_is_that_of_the_release_unless_set(image: Document, reference: str) -> None:
    (container,) = pod_of(render({"image": image}))["containers"]

    assert container["image"] == f"registry.example/anytime{reference}"


def test_admin_key_comes_from_a_secret() -> None:
    (container,) = pod_of(render(VALUES["guarded"]))["containers"]

    (key,) = [each for each in container["env"] if each["name"] == "ANYTIME_ADMIN_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "anytime-admin", "key": "admin-key"}}


def test_keys_come_from_a_secret_and_without_one_the_server_is_said_to_be_open() -> None:
    pod = pod_of(render(VALUES["guarded"]))
    (container,) = pod["containers"]

    assert environment_of(render({}))["ANYTIME_OPEN"] == "true"
    assert environment_of(render(VALUES["guarded"]))["ANYTIME_KEYS_FILE"] == "/keys/keys.toml"
    assert {"name": "keys", "mountPath": "/keys", "readOnly": True} in container["volumeMounts"]
    assert {"name": "keys", "secret": {"secretName": "anytime-keys"}} in pod["volumes"]


@pytest.mark.parametrize("values", [{}, GPU], ids=["defaults", "gpu"])
def test_a_core_is_left_besides_the_threads(values: Document) -> None:
    rendered = render(values)

    (container,) = pod_of(rendered)["containers"]
    threads = int(environment_of(rendered)["ANYTIME_THREADS"])
    assert threads < int(container["resources"]["requests"]["cpu"])


def test_pod_has_time_to_leave_the_endpoints_and_to_drain() -> None:
    values = {"preStopSeconds": 7, "settings": {"drain_s": 30.5}}

    rendered = render(values)

    assert pod_of(rendered)["terminationGracePeriodSeconds"] > 7 + 30.5
    assert environment_of(rendered)["ANYTIME_DRAIN_S"] == "30.5"


def test_large_number_stays_a_number() -> None:
    rendered = render({"settings": {"max_body_bytes": 20971520}})

    assert environment_of(rendered)["ANYTIME_MAX_BODY_BYTES"] == "20971520"


def test_gpu_values_ask_for_one_and_for_nothing_less() -> None:
    rendered = render(GPU)

    (container,) = pod_of(rendered)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment_of(rendered)["ANYTIME_DEVICE"] == "cuda"


def test_several_models_and_a_canary_are_what_the_server_reads() -> None:
    environment = environment_of(render(VALUES["several models"]))

    settings = read_settings({"bundles": environment["ANYTIME_BUNDLES"]})
    assert settings.models == {
        "birds": Path("/bundles/2026/birds"),
        "pets": Path("/bundles/2026/pets"),
        "pets@canary": Path("/bundles/2027/pets"),
    }
    assert settings.canaries == {"pets@canary": 0.05}
    assert "ANYTIME_BUNDLE_DIR" not in environment


def test_each_port_and_path_that_kserve_is_told_of_is_the_servers() -> None:
    rendered = render(VALUES["kserve, over gRPC"])
    (container,) = pod_of(rendered)["containers"]
    environment = environment_of(rendered)
    assert environment["PROTOCOL"] == "v2"
    settings = {
        name.removeprefix("ANYTIME_").lower(): str(value)
        for name, value in environment.items()
        if name.startswith("ANYTIME_")
    }
    named = {each["name"]: each["containerPort"] for each in container["ports"]}
    at: dict[str, int | str] = {"http": read_settings({}).port, "private": settings["private_port"], "h2c": settings["grpc_port"]}  # fmt: skip
    assert named == {name: int(port) for name, port in at.items()}
    free = {name: free_port() for name in named}
    ports = {"port": free["http"], "private_port": free["private"], "grpc_port": free["h2c"]}

    with started({**settings, **ports}) as server:
        server.wait_for("ready")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            url = f"http://127.0.0.1:{free[asked['port']]}{asked['path']}"
            assert httpx.get(url).status_code == 200, probe
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/cifar10/ready"):  # its v2
            assert httpx.get(f"http://127.0.0.1:{free['http']}{path}").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{free['private']}/metrics").status_code == 200
        with grpc.insecure_channel(f"127.0.0.1:{free['h2c']}") as channel:
            ask: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            ready = ask(b"")
        assert ready == b"\x08\x01"  # ready: true


def test_bundle_of_a_claim_is_mounted_to_be_read() -> None:
    rendered = render(VALUES["other bundle"])

    (container,) = pod_of(rendered)["containers"]
    assert environment_of(rendered)["ANYTIME_BUNDLE_DIR"] == "/bundles/2026/cifar100"
    assert {"name": "bundles", "mountPath": "/bundles", "readOnly": True} in container[
        "volumeMounts"
    ]
