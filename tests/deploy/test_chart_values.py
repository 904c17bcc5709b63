"""The values of the Helm chart: those that are right, those that are refused, and what is said of them."""

import json
import runpy

import helm_python
import pytest
import yaml

from service.settings import Settings
from tests.deploy.chart import CHART, GPU, VALUES, Document, environment_of, render

CLAIM: Document = {"claim": "bundles"}
ONE: Document = {"claim": "bundles", "path": "1"}
TWO_CANARIES = {"pets": "1", "pets@0.1": "2", "pets@0.2": "3"}
BY_NAME: Document = {
    "enabled": True,
    "parentRefs": [{"name": "public"}],
    "grpcHostnames": ["g.example"],
}
SCHEMA: Document = json.loads((CHART / "values.schema.json").read_text())


WRONG: dict[str, Document] = {
    "misspelt value": {"replica": 3},
    "misspelt inner value": {"autoscaling": {"enable": True}},
    "no replica": {"replicas": 0},
    "replicas in words": {"replicas": "two"},
    "tag that moves": {"image": {"tag": "latest"}},
    "attainment in percent": {"autoscaling": {"attainment": 99}},
    "always idle": {"autoscaling": {"busy": 0}},
    "prometheus without a scheme": {"autoscaling": {"prometheus": "prometheus:9090"}},
    "the chart's own setting": {"settings": {"port": 9000}},
    "setting by its variable": {"settings": {"ANYTIME_MAX_BATCH": 8}},
    "misspelt setting": {"settings": {"max_bacth": 8}},
    "setting in words": {"settings": {"max_batch": "lots"}},
    "setting out of its limits": {"settings": {"threads": -1}},
    "setting of another type": {"settings": {"policy": 5}},
    "admin key for all to read": {"settings": {"admin_key": "secret"}},
    "no name of a secret": {"adminKeySecret": {"name": "Not Valid/"}},
    "attainment that leaves nothing to miss": {"autoscaling": {"attainment": 0.9999999}},
    "prometheus with spaces": {"autoscaling": {"prometheus": "http://a b"}},
    "bundle without its claim": {"bundle": {"path": "2026"}},
    "no name of a claim": {"bundle": {"claim": "Not Valid/"}},
    "no name of a runtime class": {"runtimeClassName": "gVisor"},
    "no name of a pull secret": {"image": {"pullSecrets": ["a b"]}},
    "no peer": {"networkPolicy": {"from": [{"nope": 1}]}},
    "no egress rule": {"networkPolicy": {"egress": [{"from": []}]}},
    "no toleration": {"tolerations": [{"nope": 1}]},
    "telemetry by its variable": {"telemetry": {"OTEL_SERVICE_NAME": "anytime"}},
    "tensorrt, which the image has not": {"settings": {"device": "tensorrt"}},
    "preStopSeconds unset": {"preStopSeconds": None},
    "drain unset": {"settings": {"drain_s": None}},
    "port unset": {"service": {"port": None}},
    "busy unset": {"autoscaling": {"busy": None}},
    "disruption unset": {"disruption": None},
    "maxUnavailable unset": {"disruption": {"maxUnavailable": None}},
    "drain without end": {"settings": {"drain_s": 1e9}},
    "model outside its claim": {"bundle": {"claim": "a"}, "bundles": {"pets": "../pets"}},
    "model without a folder": {"bundle": {"claim": "a"}, "bundles": {"pets": ""}},
    "no name of a model": {"bundle": {"claim": "a"}, "bundles": {"my pets": "pets"}},
    "canary of more than all": {"bundle": {"claim": "a"}, "bundles": {"pets@1.5": "pets"}},
    "models among the settings": {"settings": {"bundles": "pets=/bundles/pets"}},
    "bundle outside its claim": {"bundle": {"claim": "bundles", "path": "../secrets"}},
    "memory in words": {"resources": {"limits": {"memory": "plenty"}}},
    "share of more than all": {"disruption": {"maxUnavailable": "101%"}},
    "setting beside the settings": {"extraEnv": [{"name": "ANYTIME_PORT", "value": "9"}]},
    "unknown variant": {"image": {"variant": "tpu"}},
    "no host": {"ingress": {"host": "a b"}},
    "gateway by no name": {"gateway": {"parentRefs": [{"namespace": "a"}]}},
    "misspelt affinity": {"affinity": {"podAffinities": {}}},
    "unknown service type": {"service": {"type": "Ingress"}},
    "no time to leave the endpoints": {"preStopSeconds": 0},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_wrong_value_is_refused(values: Document) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmValuesError):
        chart.validate_schema(values)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_right_value_is_taken(values: Document) -> None:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)


def test_schema_has_the_settings_of_the_server() -> None:
    chart_s_own = {"host", "port", "bundle_dir", "bundles", "admin_key", "keys_file"}
    ends_at_the_ingress = {"tls_certificate", "tls_key", "tls_client_ca"}
    not_in_the_image = {"engine_dir"}  # TensorRT is not
    tighter: Document = {  # than the server's own
        "drain_s": {"maximum": 600},
        "private_port": {"minimum": 1},
        "device": {"enum": ["auto", "cpu", "cuda"]},
    }
    said_elsewhere = {"title", "description", "default"}

    settings = {
        name: {key: value for key, value in setting.items() if key not in said_elsewhere}
        | tighter.get(name, {})
        for name, setting in Settings.model_json_schema()["properties"].items()
        if name not in chart_s_own | not_in_the_image | ends_at_the_ingress
    }

    assert SCHEMA["properties"]["settings"]["properties"] == settings
    assert SCHEMA["properties"]["settings"]["additionalProperties"] is False


def test_every_value_is_required_and_described() -> None:
    defaults: Document = yaml.safe_load((CHART / "values.yaml").read_text())

    assert SCHEMA["required"] == list(defaults)
    assert SCHEMA["properties"].keys() - {"global"} == defaults.keys()


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("x", {"image": {"repository": ""}}, "image.repository is not set"),
        ("x", {"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
        ("x", {"gateway": {"enabled": True}}, "gateway.enabled needs gateway.parentRefs"),
        ("x", {"autoscaling": {"minReplicas": 20}}, "minReplicas is 20, over .*maxReplicas, 10"),
        ("x" * 50, {"kserve": {"enabled": True}}, "68 characters"),
        ("x", {"settings": {"grpc_port": 8000}}, "grpc_port is 8000, the port of HTTP"),
        ("x", {"settings": {"grpc_port": 80}}, "grpc_port is 80, as service.port"),
        ("x", {"bundles": {"pets": "pets"}}, "bundles needs bundle.claim"),
        ("x", {"bundle": ONE, "bundles": {"pets": "pets"}}, "bundle.path is one bundle"),
        ("x", {"bundle": CLAIM, "bundles": {"pets@0.1": "2"}}, "canary pets@0.1 and no pets"),
        ("x", {"bundle": CLAIM, "bundles": TWO_CANARIES}, "two canaries of pets"),
        ("x", {"gateway": {"grpcHostnames": ["g.example"]}}, "needs gateway.enabled"),
        ("x", {"gateway": BY_NAME}, "grpcHostnames needs settings.grpc_port"),
        (
            "x",
            {"gateway": {**BY_NAME, "hostnames": ["*.example"]}, "settings": {"grpc_port": 8001}},
            r"g.example, which gateway.hostnames has too \(\*.example\)",
        ),
        (
            "x",
            {"gateway": BY_NAME, "settings": {"grpc_port": 8001}},
            r"g.example, which gateway.hostnames has too \(every name\)",
        ),
        ("1st", {}, "no Service may be called"),
        ("a.b", {}, "no Service may be called"),
    ],
    ids=[
        "no image",
        "ingress to no host",
        "route by no gateway",
        "fewer at most than at least",
        "long name with KServe",
        "gRPC where HTTP is",
        "two of a port",
        "models without a claim",
        "a bundle and several",
        "canary of no model",
        "two canaries",
        "gRPC route without a gateway",
        "gRPC route to no port",
        "gRPC route by a name of HTTP's",
        "gRPC route where HTTP has every name",
        "digit first",
        "dot",
    ],
)
def test_what_no_schema_can_say_is_refused(name: str, values: Document, complaint: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=complaint):
        render(values, name)


def test_readme_says_what_the_values_are() -> None:
    written = runpy.run_path(str(CHART.parent / "readme.py"))["readme"]()

    assert (CHART / "README.md").read_text() == written, "run python deploy/kubernetes/readme.py"


@pytest.mark.parametrize("values", [{}, GPU], ids=["defaults", "gpu"])
def test_settings_of_the_chart_exist(values: Document) -> None:
    known = {f"ANYTIME_{name.upper()}" for name in Settings.model_fields}

    assert environment_of(render(values)).keys() <= known
