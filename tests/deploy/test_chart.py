"""The Helm chart, rendered by Helm's own library and held against the schemas of what it makes."""

import json
import runpy
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.front.routes import router
from service.observability.telemetry import Metrics
from service.settings import Settings

CHART = Path(__file__).parents[2] / "deploy" / "kubernetes" / "anytime"
KUBERNETES = ("1.30", "1.37")  # the oldest that the chart takes, and the newest known

Document = dict[str, Any]

# It reads megabytes of schemas anew for every document.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

SCHEMA: Document = json.loads((CHART / "values.schema.json").read_text())
GPU: Document = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
SCALED: Document = {"autoscaling": {"enabled": True}, "monitor": {"enabled": True}}
WATCHED: Document = {
    "monitor": {"enabled": True, "labels": {"team": "vision"}},
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Anytime"}},
    "settings": {"grafana_url": "https://grafana.example/"},
}
VALUES: dict[str, Document] = {
    "defaults": {},
    "reached from outside": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "anytime.example",
            "tlsSecret": "tls",
        },
        "gateway": {
            "enabled": True,
            "parentRefs": [{"name": "public"}],
            "hostnames": ["*.example"],
        },
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "edge"}}}]},
    },
    "placed and labelled": {
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "priorityClassName": "serving",
        "podLabels": {"team": "vision"},
        "extraEnv": [
            {
                "name": "OTEL_EXPORTER_OTLP_HEADERS",
                "valueFrom": {"secretKeyRef": {"name": "otel", "key": "headers"}},
            }
        ],
        "serviceAccount": {"create": False, "name": "shared"},
        "disruption": {"maxUnavailable": "25%"},
    },
    "one replica": {"replicas": 1},
    "gpu": GPU,
    "scaled": SCALED,
    "watched": WATCHED,
    "other bundle": {"bundle": {"claim": "bundles", "path": "2026/cifar100"}},
    "guarded": {
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]},
        "image": {"tag": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
        "nodeSelector": {"disk": "fast"},
        "podAnnotations": {"team": "vision"},
        "runtimeClassName": "gvisor",
        "adminKeySecret": {"name": "anytime-admin"},
        "keysSecret": {"name": "anytime-keys"},
        "settings": {"policy": "static:column-1"},
    },
    "named by digits": {
        "image": {"pullSecrets": ["1"]},
        "runtimeClassName": "2",
        "bundle": {"claim": "3", "path": "4"},
        "adminKeySecret": {"name": "5", "key": "6"},
        "settings": {"policy": "static:7"},
        "nodeSelector": {"disk": "8"},
        "monitor": {"enabled": True, "labels": {"release": "9"}},
    },
    "traced": {
        "settings": {"trace_sample": 0.1},
        "telemetry": {"exporter_otlp_endpoint": "http://collector.monitoring:4318"},
        "networkPolicy": {
            "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 4318}]}]
        },
    },
    "kserve": {"kserve": {"enabled": True}},
    "kserve, gpu, scaled": {**GPU, **SCALED, "kserve": {"enabled": True}},
}
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
# What KServe adds to a pod's fields in a predictor: serving.kserve.io/v1beta1, ComponentExtensionSpec.
PREDICTOR_FIELDS = {
    "labels", "annotations", "minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy",
}  # fmt: skip


def render(values: Document, name: str = "anytime") -> dict[str, Document]:
    """Return what the chart makes of values, by kind; the pod of ``helm test`` among it."""
    values = {
        **values,
        "image": {"repository": "registry.example/anytime", **values.get("image", {})},
    }
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace="prod")
    documents = [
        yaml.load(text, yaml.CSafeLoader) for name, text in files.items() if name.endswith(".yaml")
    ]
    return {document["kind"]: document for document in documents if document}


def pod_of(rendered: dict[str, Document]) -> Document:
    """Return the pod's specification, whoever runs it."""
    if "Deployment" in rendered:
        pod: Document = rendered["Deployment"]["spec"]["template"]["spec"]
        return pod
    predictor = rendered["InferenceService"]["spec"]["predictor"]
    return {name: value for name, value in predictor.items() if name not in PREDICTOR_FIELDS}


def environment_of(rendered: dict[str, Document]) -> dict[str, str]:
    """Return the server's environment variables."""
    (container,) = pod_of(rendered)["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


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


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_wrong_value_is_refused(values: Document) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmValuesError):
        chart.validate_schema(values)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_right_value_is_taken(values: Document) -> None:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)


def test_schema_has_the_settings_of_the_server() -> None:
    chart_s_own = {"host", "port", "bundle_dir", "admin_key", "keys_file"}
    not_in_the_image = {"engine_dir"}  # TensorRT is not
    tighter: Document = {  # than the server's own
        "drain_s": {"maximum": 600},
        "device": {"enum": ["auto", "cpu", "cuda"]},
    }
    said_elsewhere = {"title", "description", "default"}

    settings = {
        name: {key: value for key, value in setting.items() if key not in said_elsewhere}
        | tighter.get(name, {})
        for name, setting in Settings.model_json_schema()["properties"].items()
        if name not in chart_s_own | not_in_the_image
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
        ("1st", {}, "no Service may be called"),
        ("a.b", {}, "no Service may be called"),
    ],
    ids=[
        "no image",
        "ingress to no host",
        "route by no gateway",
        "fewer at most than at least",
        "long name with KServe",
        "digit first",
        "dot",
    ],
)
def test_what_no_schema_can_say_is_refused(name: str, values: Document, complaint: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=complaint):
        render(values, name)


@pytest.mark.parametrize("kserve", [False, True], ids=["plain", "kserve"])
def test_service_names_fit_with_the_longest_release_name(kserve: bool) -> None:
    rendered = render({"kserve": {"enabled": kserve}}, "x" * (45 if kserve else 53))

    assert len(rendered["Service"]["metadata"]["name"]) <= 63


def test_chart_is_clean() -> None:
    report = helm_python.lint(CHART, strict=True)

    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


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


@pytest.mark.parametrize("name", ["anytime", "vision"])
def test_monitor_gives_the_job_that_rules_and_dashboards_name(name: str) -> None:
    (endpoint,) = render(SCALED, name)["ServiceMonitor"]["spec"]["endpoints"]

    assert endpoint["relabelings"] == [
        {"targetLabel": "job", "replacement": "anytime"},
        {"targetLabel": "release", "replacement": name},
    ]


def test_rules_are_those_of_prometheus_narrowed_to_the_release() -> None:
    groups = render(WATCHED, "vision")["PrometheusRule"]["spec"]["groups"]

    shipped = [
        group
        for path in sorted((CHART / "files/rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    narrowed = 'job="anytime",namespace="prod",release="vision"'
    written = json.dumps(groups).replace(
        json.dumps(narrowed)[1:-1], json.dumps('job="anytime"')[1:-1]
    )
    assert (
        json.loads(written.replace("https://grafana.example", "http://localhost:3000")) == shipped
    )
    assert all(narrowed in rule["expr"] for group in groups for rule in group["rules"])


def test_dashboards_are_those_of_grafana() -> None:
    found = render(WATCHED)["ConfigMap"]

    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    for path in (CHART / "files/dashboards").glob("*.json"):
        assert json.loads(found["data"][f"anytime-{path.name}"]) == json.loads(path.read_text())


def test_monitor_finds_no_service_that_kserve_makes() -> None:
    rendered = render(VALUES["kserve, gpu, scaled"])

    wanted = rendered["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    service = rendered["InferenceService"]
    assert not wanted <= service["metadata"]["labels"].items()
    assert not wanted <= service["spec"]["predictor"]["labels"].items()


def test_traces_go_where_opentelemetrys_variables_say() -> None:
    environment = environment_of(render(VALUES["traced"]))

    assert environment["ANYTIME_TRACE_SAMPLE"] == "0.1"
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"


def test_what_is_not_for_everybody_has_no_way_from_outside() -> None:
    rendered = render(VALUES["reached from outside"])

    (rule,) = rendered["Ingress"]["spec"]["rules"]
    by_ingress = {each["path"]: each["pathType"] for each in rule["http"]["paths"]}
    (rule,) = rendered["HTTPRoute"]["spec"]["rules"]
    by_gateway = {each["path"]["value"] for each in rule["matches"]}
    assert by_ingress.keys() == by_gateway
    assert by_ingress["/"] == "Exact"
    assert not [path for path in by_gateway if path.startswith(("/metrics", "/admin", "/docs"))]
    served = {getattr(route, "path", "").partition("/{")[0] for route in router.routes}
    assert by_gateway - served == {"/", "/samples"}  # the page's


def test_whoever_asks_and_prometheus_may_connect_and_nobody_else() -> None:
    (ingress,) = render(VALUES["reached from outside"])["NetworkPolicy"]["spec"]["ingress"]

    gateway, prometheus, trial = ingress["from"]
    assert gateway["namespaceSelector"]["matchLabels"] == {"team": "edge"}
    assert prometheus["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    pod = render({})["Pod"]
    assert trial["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert (
        not render({})["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    )


def test_readme_says_what_the_values_are() -> None:
    written = runpy.run_path(str(CHART.parent / "readme.py"))["readme"]()

    assert (CHART / "README.md").read_text() == written, "run python deploy/kubernetes/readme.py"


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


@pytest.mark.parametrize("values", [{}, GPU], ids=["defaults", "gpu"])
def test_settings_of_the_chart_exist(values: Document) -> None:
    known = {f"ANYTIME_{name.upper()}" for name in Settings.model_fields}

    assert environment_of(render(values)).keys() <= known


def test_gpu_values_ask_for_one_and_for_nothing_less() -> None:
    rendered = render(GPU)

    (container,) = pod_of(rendered)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment_of(rendered)["ANYTIME_DEVICE"] == "cuda"


def test_bundle_of_a_claim_is_mounted_to_be_read() -> None:
    rendered = render(VALUES["other bundle"])

    (container,) = pod_of(rendered)["containers"]
    assert environment_of(rendered)["ANYTIME_BUNDLE_DIR"] == "/bundles/2026/cifar100"
    assert {"name": "bundles", "mountPath": "/bundles", "readOnly": True} in container[
        "volumeMounts"
    ]


def test_scaling_leaves_the_count_to_the_scaler() -> None:
    rendered = render(SCALED)

    assert "replicas" not in rendered["Deployment"]["spec"]
    assert (
        rendered["ScaledObject"]["spec"]["scaleTargetRef"]["name"]
        == (rendered["Deployment"]["metadata"]["name"])
    )


def test_scaling_asks_for_metrics_that_the_server_has() -> None:
    text = Metrics(CollectorRegistry(), version="0").exposition().decode()
    exported = {family.name for family in text_string_to_metric_families(text)}

    for trigger in render(SCALED)["ScaledObject"]["spec"]["triggers"]:
        words = trigger["metadata"]["query"].replace("{", " ").replace("(", " ").split()
        for name in (word for word in words if word.startswith("anytime_")):
            assert name.removesuffix("_total").removesuffix("_sum") in exported


UP = 'up{namespace="prod", pod="anytime-1a-%s"}'
REQUESTS = 'anytime_requests_total{namespace="prod", pod="anytime-1a-%s", outcome="%s"}'
QUEUE = 'anytime_queue_depth{namespace="prod", pod="anytime-1a-%s"}'
BUSY = 'anytime_run_latency_seconds_sum{namespace="prod", pod="anytime-1a-%s", subnetwork="full"}'
TWO_SEEN = {
    QUEUE % "2b": "3x20",
    QUEUE % "3c": "5x20",
    BUSY % "2b": "0+30x20",
    BUSY % "3c": "0+42x20",
}
SCALED_BY: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "idle": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "5x20",
            REQUESTS % ("2b", "late"): "0x20",
        },
        {"misses": 0},
    ),
    "all in time": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "0+60x20",
            REQUESTS % ("2b", "late"): "0x20",
        },
        {"misses": 0},
    ),
    "one in 100 late": (
        {
            UP % "2b": "1x20",
            REQUESTS % ("2b", "in_time"): "0+99x20",
            REQUESTS % ("2b", "late"): "0+1x20",
        },
        {"misses": 1},
    ),
    "all seen": ({UP % "2b": "1x20", UP % "3c": "1x20", **TWO_SEEN}, {"queue": 8, "busy": 1.2}),
    "one of three no longer seen": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "1x9 0x11", **TWO_SEEN},
        {"queue": 12, "busy": 1.8},
    ),
    "one of three still to come": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "0x20", **TWO_SEEN},
        {"queue": 8, "busy": 1.2},
    ),
    "one of three gone for good": (
        {UP % "2b": "1x20", UP % "3c": "1x20", UP % "4d": "1x9 stale", **TWO_SEEN},
        {"queue": 8, "busy": 1.2},
    ),
    "none seen any more": (
        {UP % "2b": "1x9 0x11", QUEUE % "2b": "3x9 stale", BUSY % "2b": "0+30x9 stale"},
        {"misses": 1},  # as many replicas as there are
    ),
    "none known any more": ({UP % "2b": "1x9 stale", QUEUE % "2b": "3x9 stale"}, {"misses": 1}),
}


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs Prometheus (apt-get install prometheus)"
)
def test_scaling_goes_by_what_is_seen_and_holds_without_data(tmp_path: Path) -> None:
    triggers = render(SCALED)["ScaledObject"]["spec"]["triggers"]
    queries = {each["name"]: each["metadata"]["query"] for each in triggers}
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({query}, 1e-6)",
                    "eval_time": "15m",
                    "exp_samples": [{"labels": "{}", "value": wanted[trigger]}]
                    if trigger in wanted
                    else [],
                }
                for trigger, query in queries.items()
                if trigger in wanted or name.startswith("none")
            ],
        }
        for name, (series, wanted) in SCALED_BY.items()
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": tests}))

    result = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_kserve_replaces_the_deployment_and_its_scaler_alone() -> None:
    plain, kserve = render(SCALED), render({**SCALED, "kserve": {"enabled": True}})

    assert plain.keys() - kserve.keys() == {"Deployment", "ScaledObject"}
    assert kserve.keys() - plain.keys() == {"InferenceService"}
    (container,) = pod_of(kserve)["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
