"""The rendered manifests: as they were, as Kubernetes' schemas want them, and right among themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from deploy.kubernetes import kustomize

FOLDER = Path(__file__).parent
OVERLAYS = ("cpu", "gpu")
# The oldest with everything that is used here (gRPC probes, autoscaling/v2), and the newest that is known.
VERSIONS = ("1.27", kubernetes_validate.latest_version())
# Whose schemas are their operators'.
CUSTOM = {"PodMonitor", "ServiceMonitor"}
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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_published_schemas_accept_every_object(overlay: str, version: str) -> None:
    checked = 0
    for found in objects(overlay):
        if found["kind"] not in CUSTOM:
            kubernetes_validate.validate(found, version, strict=True)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_of_other_systems_are_pods(version: str) -> None:
    for number, spec in enumerate(integrations()):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


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
