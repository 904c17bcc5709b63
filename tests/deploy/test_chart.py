"""What the Helm chart makes, held against the schemas, and who reaches what."""

import re
from functools import cache

import helm_python
import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from service.front.open_inference.routes import router as open_inference
from service.front.routes import router
from tests.deploy.chart import CHART, SCALED, VALUES, Document, environment_of, pod_of, render
from tests.server import ROOT

PROTO = ROOT / "service/front/open_inference/open_inference.proto"
KUBERNETES = ("1.30", "1.37")  # the oldest that the chart takes, and the newest known


# It reads megabytes of schemas anew for every document.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def check_against_schema(document: Document, kubernetes: str) -> None:
    """Fail if a document is not what its kind must be, or has a field that its kind has not."""
    match document["kind"]:
        case "ScaledObject":
            model = ScaledObject.model_validate(document)
            assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == document
        case "ServiceMonitor":
            monitor = ServiceMonitor.model_validate(document)
            assert monitor.model_dump(by_alias=True, exclude_unset=True, mode="json") == document
        case "PrometheusRule":
            rules = PrometheusRule.model_validate(document)
            assert rules.model_dump(by_alias=True, exclude_unset=True, mode="json") == document
        case "InferenceService":
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": document["metadata"]}
            pod["spec"] = pod_of({"InferenceService": document})
            kubernetes_validate.validate(pod, kubernetes, strict=True)
        case "HTTPRoute":  # no package has its schema: the fields that it may have here
            assert document["spec"].keys() <= {"parentRefs", "hostnames", "rules"}
            for rule in document["spec"]["rules"]:
                assert rule.keys() == {"matches", "backendRefs"}
        case "GRPCRoute":
            assert document["spec"].keys() == {"parentRefs", "hostnames", "rules"}
            for rule in document["spec"]["rules"]:
                assert rule.keys() == {"matches", "backendRefs"}
                assert len(rule["matches"]) <= 8  # the most that version 1.1 takes
        case _:
            kubernetes_validate.validate(document, kubernetes, strict=True)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_everything_rendered_fits_its_schema(values: Document, kubernetes: str) -> None:
    for document in render(values).values():
        check_against_schema(document, kubernetes)


@pytest.mark.parametrize("kind", [kind for kind, each in render(SCALED).items() if "spec" in each])
def test_field_that_a_kind_has_not_is_noticed(kind: str) -> None:
    document = render(SCALED)[kind]
    document["spec"]["extra"] = True

    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_against_schema(document, KUBERNETES[-1])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_selectors_find_the_pods(values: Document) -> None:
    rendered = render(values)
    if "Deployment" in rendered:
        labels = rendered["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    else:
        labels = rendered["InferenceService"]["spec"]["predictor"]["labels"].items()

    assert rendered["Service"]["spec"]["selector"].items() <= labels
    assert rendered["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels
    if "PodDisruptionBudget" in rendered:
        budget = rendered["PodDisruptionBudget"]["spec"]
        assert budget["selector"]["matchLabels"].items() <= labels
    if "ServiceMonitor" in rendered:
        monitor = rendered["ServiceMonitor"]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= (
            rendered["Service"]["metadata"]["labels"].items()
        )


def test_chart_is_clean() -> None:
    report = helm_python.lint(CHART, strict=True)

    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("kserve", [False, True], ids=["plain", "kserve"])
def test_service_names_fit_with_the_longest_release_name(kserve: bool) -> None:
    rendered = render({"kserve": {"enabled": kserve}}, "x" * (45 if kserve else 53))

    assert len(rendered["Service"]["metadata"]["name"]) <= 63


def test_kserve_replaces_the_deployment_and_its_scaler_alone() -> None:
    plain, kserve = render(SCALED), render({**SCALED, "kserve": {"enabled": True}})

    assert plain.keys() - kserve.keys() == {"Deployment", "ScaledObject"}
    assert kserve.keys() - plain.keys() == {"InferenceService"}
    (container,) = pod_of(kserve)["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]


def test_what_is_not_for_everybody_has_no_way_from_outside() -> None:
    rendered = render(VALUES["reached from outside"])

    (rule,) = rendered["Ingress"]["spec"]["rules"]
    by_ingress = {each["path"]: each["pathType"] for each in rule["http"]["paths"]}
    (rule,) = rendered["HTTPRoute"]["spec"]["rules"]
    by_gateway = {each["path"]["value"] for each in rule["matches"]}
    assert by_ingress.keys() == by_gateway
    assert by_ingress["/"] == "Exact"
    assert not [
        path
        for path in by_gateway
        if path.startswith(("/metrics", "/admin", "/docs", "/v2/repository/models"))
    ]
    served = {
        getattr(route, "path", "").partition("/{")[0]
        for route in (*router.routes, *open_inference.routes)
    }
    assert by_gateway - served == {
        "/",
        "/samples",
        "/v2/health",
    }  # of the page, and above what is served


def test_whoever_asks_may_connect_and_prometheus_alone_reaches_metrics() -> None:
    asked, private = render(VALUES["reached from outside"])["NetworkPolicy"]["spec"]["ingress"]

    gateway, trial = asked["from"]
    assert gateway["namespaceSelector"]["matchLabels"] == {"team": "edge"}
    pod = render({})["Pod"]
    assert trial["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert (
        not render({})["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    )
    assert private["ports"] == [{"port": "private", "protocol": "TCP"}]
    (prometheus,) = private["from"]
    assert prometheus["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert environment_of(render({}))["ANYTIME_PRIVATE_PORT"] == "8404"
    (endpoint,) = render(SCALED)["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] == "private"


def test_grpc_has_a_port_of_the_service_and_of_the_policy() -> None:
    rendered = render(VALUES["over gRPC"])

    assert environment_of(rendered)["ANYTIME_GRPC_PORT"] == "8001"
    (container,) = pod_of(rendered)["containers"]
    assert {"name": "h2c", "containerPort": 8001, "protocol": "TCP"} in container["ports"]
    *_, port = rendered["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8001, "h2c")
    assert port["appProtocol"] == "kubernetes.io/h2c"
    ingress, _ = rendered["NetworkPolicy"]["spec"]["ingress"]
    assert {"port": "h2c", "protocol": "TCP"} in ingress["ports"]
    ports = render({})["Service"]["spec"]["ports"]
    assert [each["name"] for each in ports] == ["http", "private"]


def test_every_grpc_method_but_administration_has_a_way_from_outside() -> None:
    rendered = render(VALUES["over gRPC from outside"])

    route = rendered["GRPCRoute"]["spec"]
    methods = set(re.findall(r"^  rpc (\w+)\(", PROTO.read_text(), re.MULTILINE))
    routed = [each["method"] for rule in route["rules"] for each in rule["matches"]]
    assert {each["service"] for each in routed} == {"inference.GRPCInferenceService"}
    assert {each["method"] for each in routed} == methods - {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    }
    for rule in route["rules"]:
        assert rule["backendRefs"] == [{"name": "anytime", "port": 8001}]
    assert 8001 in {each["port"] for each in rendered["Service"]["spec"]["ports"]}
    assert "GRPCRoute" not in render(VALUES["reached from outside"])


def test_kserve_makes_its_service_of_the_containers_ports_with_http_first() -> None:
    rendered = render(VALUES["kserve, over gRPC"])

    (container,) = pod_of(rendered)["containers"]
    assert [each["name"] for each in container["ports"]] == ["http", "private", "h2c"]
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert rendered["Service"]["metadata"]["name"] == "anytime-metrics"  # KServe makes another
