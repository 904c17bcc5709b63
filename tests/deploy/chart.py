"""The Helm chart, rendered by Helm's own library, for the tests of what it makes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "kubernetes" / "anytime"


Document = dict[str, Any]


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
    "several models": {
        "bundle": {"claim": "bundles"},
        "bundles": {"pets": "2026/pets", "birds": "2026/birds", "pets@0.05": "2027/pets"},
    },
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
    "over gRPC": {"settings": {"grpc_port": 8001}},
    "over gRPC from outside": {
        "settings": {"grpc_port": 8001},
        "gateway": {
            "enabled": True,
            "parentRefs": [{"name": "public"}],
            "hostnames": ["anytime.example"],
            "grpcHostnames": ["grpc.anytime.example"],
        },
    },
    "kserve": {"kserve": {"enabled": True}},
    "kserve, over gRPC": {"kserve": {"enabled": True}, "settings": {"grpc_port": 8001}},
    "kserve, gpu, scaled": {**GPU, **SCALED, "kserve": {"enabled": True}},
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
    documents = [yaml.load(text, yaml.CSafeLoader) for text in _files(json.dumps(values), name)]
    return {document["kind"]: document for document in documents if document}


@cache
def _files(values: str, name: str) -> list[str]:
    """Return the files that the chart makes, of each set of values once."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(json.loads(values), name=name, namespace="prod")
    return [text for name, text in files.items() if name.endswith(".yaml")]


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
