"""The rendered manifests: as they were, as Kubernetes' and the operators' schemas want them, right among themselves."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from deploy.kubernetes import kustomize

FOLDER = Path(__file__).parent
OVERLAYS = ("cpu", "gpu")
# The oldest with everything that is used here (gRPC probes, autoscaling/v2), and the newest that is known.
VERSIONS = ("1.27", kubernetes_validate.latest_version())
# The operators' own, by kind: see describe_crds.py.
CUSTOM: dict[str, Any] = json.loads((FOLDER / "crds.json").read_text())
OTHER_SYSTEMS = ("seldon/seldondeployment.yaml", "kserve/inferenceservice.yaml")
# What a worker or a gateway takes to end once calls have ended: libs/serving/server.py STOP_S.
STOP_S = 15


def golden(overlay: str) -> str:
    return (FOLDER / "golden" / f"{overlay}.yaml").read_text()


def objects(overlay: str, kind: str = "") -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(golden(overlay)) if kind in ("", found["kind"])]


def pod_of(overlay: str, name: str) -> dict[str, Any]:
    (deployment,) = (found for found in objects(overlay, "Deployment") if found["metadata"]["name"] == name)
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def of_kind(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / file).read_text())
    return found


def integrations() -> list[dict[str, Any]]:
    """The pods that other systems start from the same image."""
    (predictor,) = of_kind("seldon/seldondeployment.yaml")["spec"]["predictors"]
    (component,) = predictor["componentSpecs"]
    kserve = dict(of_kind("kserve/inferenceservice.yaml")["spec"]["predictor"])
    for own in ("minReplicas", "maxReplicas"):  # KServe's, the rest is a pod's
        del kserve[own]
    return [component["spec"], kserve]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rendered_is_what_was_looked_at(overlay: str) -> None:
    assert kustomize.render(FOLDER / overlay) == golden(
        overlay
    ), f"if it should: kubectl kustomize deploy/kubernetes/{overlay} > deploy/kubernetes/golden/{overlay}.yaml"


def check(found: dict[str, Any], version: str) -> None:
    """Raises when the schemas that are published for the object's kind do not accept it."""
    if found["kind"] not in CUSTOM:
        kubernetes_validate.validate(found, version, strict=True)
        return
    jsonschema.Draft7Validator(CUSTOM[found["kind"]]).validate(found)
    # The operators' schemas leave to Kubernetes what is Kubernetes' own.
    bare = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": found["metadata"]}
    kubernetes_validate.validate(bare, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_published_schemas_accept_every_object(overlay: str, version: str) -> None:
    kinds = [found["kind"] for found in objects(overlay)]
    for found in objects(overlay):
        check(found, version)
    assert kinds.count("Deployment") == 3
    assert {"PodMonitor", "PrometheusRule", "ServiceMonitor"} <= CUSTOM.keys() & set(kinds)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_published_schemas_accept_the_objects_of_other_systems(version: str) -> None:
    for file in OTHER_SYSTEMS:
        check(of_kind(file), version)
    for number, spec in enumerate(integrations()):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


def wrong_objects() -> dict[str, dict[str, Any]]:
    """Objects of ours with one field of each misspelt, missing or of another type."""
    wrong = {}

    def spoil(name: str, found: dict[str, Any], path: str, value: Any, rename: str = "") -> None:
        spoilt = copy.deepcopy(found)
        *way, last = path.split(".")
        at: Any = spoilt
        for step in way:
            at = at[int(step) if step.isdigit() else step]
        if rename:
            at[rename] = at.pop(last)
        elif value is None:
            del at[last]
        else:
            at[last] = value
        wrong[name] = spoilt

    (service, pods) = (objects("cpu", kind)[0] for kind in ("ServiceMonitor", "PodMonitor"))
    (rule,) = objects("cpu", "PrometheusRule")
    seldon, kserve = (of_kind(file) for file in OTHER_SYSTEMS)
    deployment = objects("cpu", "Deployment")[0]
    pod = "spec.template.spec"
    spoil(
        "deployment, misspelt", deployment, f"{pod}.terminationGracePeriodSeconds", None, "terminationGrace"
    )
    spoil("deployment, type", deployment, "spec.replicas", "two")
    spoil("deployment, deep", deployment, f"{pod}.containers.0.readinessProbe.grpc", None, "gRPC")
    spoil("service monitor, misspelt", service, "spec.endpoints.0.interval", None, "intervall")
    spoil("service monitor, missing", service, "spec.selector", None)
    spoil("service monitor, pattern", service, "spec.endpoints.0.interval", "15 seconds")
    spoil("service monitor, metadata", service, "metadata.name", None, "nmae")
    spoil("pod monitor, misspelt", pods, "spec.podMetricsEndpoints", None, "endpoints")
    spoil("pod monitor, version", pods, "apiVersion", "monitoring.coreos.com/v2")
    spoil("rule, misspelt", rule, "spec.groups.0.rules.0.expr", None, "expression")
    spoil("rule, pattern", rule, "spec.groups.0.rules.0.for", "a minute")
    spoil("seldon, misspelt", seldon, "spec.predictors.0.graph.endpoint.service_port", None, "servicePort")
    spoil("seldon, type", seldon, "spec.predictors.0.replicas", "2")
    spoil("kserve, misspelt", kserve, "spec.predictor.minReplicas", None, "minimumReplicas")
    spoil("kserve, missing", kserve, "spec.predictor", None)
    return wrong


@pytest.mark.parametrize("name", sorted(wrong_objects()))
def test_a_wrong_field_is_found(name: str) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(wrong_objects()[name], VERSIONS[-1])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_deployment_is_probed_confined_and_spread(overlay: str) -> None:
    deployments = objects(overlay, "Deployment")
    assert {found["metadata"]["name"] for found in deployments} == {"gateway", "torch-worker", "tf-serving"}
    for found in deployments:
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        port = container["ports"][0]["containerPort"]
        assert container["startupProbe"]["grpc"] == container["readinessProbe"]["grpc"] == {"port": port}
        assert "livenessProbe" in container
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert len(pod["topologySpreadConstraints"]) == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_there_is_time_to_drain(overlay: str) -> None:
    for found in objects(overlay, "Deployment"):
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        flags = dict(re.findall(r"--(drain-\w+)=(\d+)", " ".join(container["args"])))
        command = (
            container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        )
        needed = int(command[1]) + int(flags["drain-grace"]) + int(flags["drain-deadline"]) + STOP_S
        assert pod["terminationGracePeriodSeconds"] >= needed
        # a drain is not taken for a death
        probe = container["livenessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > int(flags["drain-deadline"]) + STOP_S


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_belongs_to_a_deployment_selects_its_pods(overlay: str) -> None:
    for found in objects(overlay, "Deployment"):
        name = found["metadata"]["name"]
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "dl-inference"  # the network policy's
        own = {
            kind: next(entry for entry in objects(overlay, kind) if entry["metadata"]["name"] == name)
            for kind in ("Service", "PodDisruptionBudget", "HorizontalPodAutoscaler")
        }
        assert own["Service"]["spec"]["selector"].items() <= labels.items()
        assert own["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert own["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
        assert found["metadata"]["namespace"] == "dl-inference"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_node_file_names_headless_services_and_their_ports(overlay: str) -> None:
    services = {found["metadata"]["name"]: found["spec"] for found in objects(overlay, "Service")}
    (nodes,) = (
        found["data"]["nodefile.txt"]
        for found in objects(overlay, "ConfigMap")
        if "nodefile.txt" in found["data"]
    )
    named = re.findall(r"^\d+=\d+,([\w-]+):(\d+)$", nodes, re.MULTILINE)
    assert {name for name, _ in named} == services.keys() - {"gateway"}
    for name, port in named:
        assert services[name]["clusterIP"] == "None"
        # The gateway connects to the pods' addresses: a headless Service maps no ports.
        (container,) = pod_of(overlay, name)["containers"]
        assert [entry["port"] for entry in services[name]["ports"]] == [int(port)]
        assert container["ports"][0]["containerPort"] == int(port)


def test_the_overlays_differ_in_the_device() -> None:
    cpu, gpu = (pod_of(overlay, "torch-worker")["containers"][0] for overlay in OVERLAYS)
    assert (cpu["image"], gpu["image"]) == ("dl-inference/torch-worker-cpu", "dl-inference/torch-worker-cuda")
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--device=cuda" in gpu["args"]
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
