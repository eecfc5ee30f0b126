"""Runs the images as deploy/compose.yaml says and shows that they hold what they promise.

1. Each image: not root, a health check, its labels, its bill of materials; its size.
2. The system comes up, two containers of each service, and answers the README's requests rightly.
3. A third worker is found and called, without a word to the gateway.
4. `docker stop` of a container of each service under load: no call fails, and its exit status is 0.
5. `docker kill` of a worker under load: at least 99.9 % of the calls succeed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from deploy.check.containers import EngineError, Project, address, docker, inspect, wait_healthy
from e2e.system import Load
from examples.quickstart.requests import Answer, Caller, rounds

IMAGES = ("gateway", "torch-worker-cpu", "tf-serving")
SERVICES = ("gateway", "digits", "mmoe", "tensorflow")
INSTANCES = 2
GATEWAY_PORT = 8500
# Models load on two busy cores.
START_S = 180.0
# Before and after what is done under load: longer than the gateway takes to see it (0.2 s) and to look names up (5 s).
BEFORE_S, AFTER_S = 2.0, 7.0
KILL_SHARE = 0.999
# The longest that a stop may take: the drain and the engine's own work.
STOP_S = 60.0


class CheckError(Exception):
    """An image or the system does not do what it should."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        for image in IMAGES:
            check_image(f"dl-inference/{image}:{options.tag}")
        settings = {
            "TAG": options.tag,
            "MODELS": str(options.models.absolute()),
            # free ones: callers below take the containers' own addresses
            "GATEWAY_PORT": "0",
            "ADMIN_PORT": "0",
        }
        with Project(f"dl-check-{os.getpid()}", options.compose, settings) as project:
            check_system(project, options.models)
    except (CheckError, EngineError) as error:
        print(f"check-images: {error}", file=sys.stderr)
        return 1
    print("The images hold.")
    return 0


def check_image(image: str) -> None:
    """What the image must say of itself; prints its size."""
    found = inspect("image", image)
    config = found["Config"]
    labels = config["Labels"] or {}
    wanted = {
        "a numeric user other than root": config["User"].partition(":")[0].isdigit()
        and config["User"] != "0",
        "a health check": bool(config.get("Healthcheck")),
        "STOPSIGNAL SIGTERM": config.get("StopSignal") == "SIGTERM",
        "labels": all(
            labels.get(f"org.opencontainers.image.{name}") for name in ("revision", "version", "licenses")
        ),
    }
    missing = [what for what, there in wanted.items() if not there]
    if missing:
        raise CheckError(f"{image} lacks {', '.join(missing)}")
    bill = json.loads(docker("run", "--rm", "--entrypoint", "cat", image, "/app/sbom.cdx.json"))
    size, components = found["Size"] / 1e6, len(bill["components"])
    print(f"{image:<45} {size:6.0f} MB, {components} components in its bill of materials", flush=True)
    if not components:
        raise CheckError(f"{image} has an empty bill of materials")


def check_system(project: Project, models: Path) -> None:
    """From the start of all containers to the last check."""
    started = time.monotonic()
    project.up({service: INSTANCES for service in SERVICES})
    containers = {service: project.containers(service) for service in SERVICES}
    everything = [container for service in SERVICES for container in containers[service]]
    wait_healthy(everything, START_S)
    print(f"{len(everything)} containers are healthy after {time.monotonic() - started:.0f} s", flush=True)
    for container in everything:
        check_confined(container)

    gateways = [f"{address(container)}:{GATEWAY_PORT}" for container in containers["gateway"]]
    with Calls(gateways, models) as calls:
        once = len(calls.rounds[0])
        for _ in range(once):
            calls.next()
        print(f"{once} answers equal those of the models loaded directly", flush=True)
        scale_under_load(calls, project, "digits")
        for service in SERVICES:
            stop_under_load(calls, service, containers[service][0])
        kill_under_load(calls, containers["digits"][0])


CONFINED = """
import os, pathlib
assert os.getuid() != 0, "runs as root"
for folder in ("/", "/app", "/etc", "/var", "/usr/lib"):
    assert not os.access(folder, os.W_OK), f"can write to {folder}"
stats = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
assert "Z" not in [stat.rpartition(")")[2].split()[0] for stat in stats], "has dead processes"
"""


def check_confined(container: str) -> None:
    """Not root, nothing writable but /tmp, no dead process left behind."""
    docker("exec", container, "python3.11", "-IS", "-c", CONFINED)


class Calls:
    """The README's calls, over a channel to all gateways that spreads calls over them as any gRPC client can."""

    def __init__(self, gateways: Sequence[str], models: Path) -> None:
        options = (("grpc.lb_policy_name", "round_robin"), ("grpc.enable_http_proxy", 0))
        target = f"ipv4:{','.join(gateways)}"
        self._callers = [Caller(target, options) for _ in range(2)]
        self.rounds = [rounds(caller, models) for caller in self._callers]
        self._order = itertools.cycle([call for calls in self.rounds for call in calls])

    def __enter__(self) -> Calls:
        for caller in self._callers:
            grpc.channel_ready_future(caller.channel).result(timeout=START_S)
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.close()

    def next(self) -> str:
        """The next call of all; returns who answered it. Raises when it fails or its answer is wrong."""
        answer: Answer = next(self._order)()
        if not answer.right:
            raise CheckError(f"{answer.model} answered {answer.said} to {answer.asked}")
        return answer.instance


def under_load(calls: Calls, what: str, act: Callable[[], None]) -> Load:
    """Calls without pause, acts after a while, goes on for a while; prints how many calls succeeded."""
    with Load(calls.next) as load:
        time.sleep(BEFORE_S)
        act()
        time.sleep(AFTER_S)
    served, failed = len(load.served), len(load.failures)
    print(f"{what:<28} {served} calls succeeded, {failed} failed", flush=True)
    for failure in load.failures[:5]:
        print(f"  {failure!r}")
    if not served:
        raise CheckError(f"{what}: no call succeeded")
    return load


def scale_under_load(calls: Calls, project: Project, service: str) -> None:
    """One container more is called as soon as the gateway has looked the service's name up."""
    old = set(project.containers(service))
    scale = {name: INSTANCES for name in SERVICES}

    def scale_up() -> None:
        project.up({**scale, service: INSTANCES + 1})
        wait_healthy(project.containers(service), START_S)

    load = under_load(calls, f"--scale {service}={INSTANCES + 1}", scale_up)
    (new,) = set(project.containers(service)) - old
    host = address(new)
    if load.failures or not any(instance.startswith(f"{host}:") for instance in load.instances(since=0.0)):
        raise CheckError(f"--scale {service}: {len(load.failures)} calls failed, or {host} was not called")


def stop_under_load(calls: Calls, service: str, container: str) -> None:
    """`docker stop` loses no call and ends well; then the container is started again."""
    load = under_load(calls, f"docker stop, {service}", lambda: _stop(container))
    if load.failures:
        raise CheckError(f"docker stop of {service}: {len(load.failures)} calls failed")
    status = inspect("container", container)["State"]["ExitCode"]
    if status != 0:
        raise CheckError(f"{service} ended with status {status} after docker stop")
    docker("start", container)
    wait_healthy([container], START_S)


def _stop(container: str) -> None:
    docker("stop", "--time", str(int(STOP_S)), container, timeout_s=STOP_S + 30)


def kill_under_load(calls: Calls, container: str) -> None:
    load = under_load(calls, "docker kill, digits", lambda: _kill(container))
    share = len(load.served) / (len(load.served) + len(load.failures))
    if share < KILL_SHARE:
        raise CheckError(
            f"docker kill of a worker: {share:.2%} of the calls succeeded, expected {KILL_SHARE:.1%}"
        )


def _kill(container: str) -> None:
    docker("kill", container)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check-images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", default="latest", help="of the images [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="folder of the example models [%(default)s]"
    )
    parser.add_argument(
        "--compose", type=Path, default=Path("deploy/compose.yaml"), help="the compose file [%(default)s]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
