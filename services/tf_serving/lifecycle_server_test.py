"""Models that come, change and go while the server runs, by the official stubs."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, save_constant
from services.tf_serving.testing_client import Client

WAIT_S = 60.0


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def config(name: str, base: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'


def config_list(*configs: str) -> str:
    return "model_config_list {\n" + "\n".join(configs) + "\n}\n"


POLICY = "model_version_policy {{ {} }}".format
SOME = POLICY("specific { versions: 1 versions: 2 }")
LABELS = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base paths a, b and c with versions 1 to 3, which answer 11 to 13, 21 to 23 and 31 to 33."""
    tensorflow()
    folder = tmp_path_factory.mktemp("models")
    for tens, name in enumerate("abc", 1):
        (folder / name).mkdir()
        for version in (1, 2, 3):
            save_constant(folder / name / str(version), tens * 10 + version)
    return folder


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    file = folder / "models.config"
    file.write_text(
        config_list(
            config("a", folder / "a"),
            config("b", folder / "b", SOME + LABELS),
            config("c", folder / "c", POLICY("all {}")),
        )
    )
    return file


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    arguments = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=0.2"]
    with Server(*arguments, "--file_system_poll_wait_seconds=0.2", "--drain-grace-s=0") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with grpc.insecure_channel(server.address) as channel:
        yield Client(channel)


def test_policies_and_labels_choose_the_versions(client: Client) -> None:
    assert client.answer("a") == (3, 13)
    assert client.states("a") == {3: 30}
    assert client.answer("b") == (2, 22)
    assert client.answer("b", version=1) == client.answer("b", label="stable") == (1, 21)
    assert client.answer("b", label="canary") == (2, 22)
    assert client.states("b") == {1: 30, 2: 30}
    assert [client.answer("c", version=n)[1] for n in (1, 2, 3)] == [31, 32, 33]
    assert client.states("c") == {1: 30, 2: 30, 3: 30}


def test_what_is_not_served_is_told_in_tensorflow_servings_words(client: Client) -> None:
    assert code_of(lambda: client.answer("d")) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(d)",
    )
    assert code_of(lambda: client.answer("b", version=3)) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(b, 3)",
    )
    assert code_of(lambda: client.answer("a", label="stable")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    )
    assert code_of(lambda: client.states("d")) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model d",
    )


def test_health_is_told_by_service_model_and_version(client: Client) -> None:
    services = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
    for service in ("", *services, "a", "a/3", "b/1", "c"):
        assert client.serving(service), service
    assert code_of(lambda: client.serving("a/1"))[0] is grpc.StatusCode.NOT_FOUND


def test_a_new_version_takes_over_and_a_corrupt_one_does_not(client: Client, folder: Path) -> None:
    save_constant(folder / "a" / "4", 14)
    until(lambda: client.answer("a") == (4, 14))
    until(lambda: client.states("a") == {4: 30, 3: 50})
    shutil.copytree(folder / "a" / "4", folder / "a" / "5", ignore=shutil.ignore_patterns("variables"))
    until(lambda: client.states("a").get(5) == 50)
    assert client.answer("a") == (4, 14)
    assert f"cannot load {folder}/a/5" in client.status("a")[5][1]
    shutil.rmtree(folder / "a" / "5")


def test_the_file_is_followed_and_a_mistake_in_it_changes_nothing(
    client: Client, folder: Path, file: Path, server: Server
) -> None:
    was = file.read_text()
    file.write_text(config_list("config { nam: 1 }"))
    until(lambda: f'{file}:2:10 : Message type "tensorflow.serving.ModelConfig"' in server.log())
    file.write_text(was.replace("all {}", "latest { num_versions: 2 }"))
    until(lambda: client.states("c") == {1: 50, 2: 30, 3: 30})
    assert client.answer("b", label="stable") == (1, 21)


def test_a_reload_adds_changes_and_removes(client: Client, folder: Path) -> None:
    both = POLICY("specific { versions: 2 versions: 3 }")
    client.reload(
        config_list(
            config("new", folder / "c"),
            config("b", folder / "b", both + 'version_labels { key: "stable" value: 2 }'),
        )
    )
    assert client.answer("new") == (3, 33)
    assert client.answer("b") == (3, 23)
    assert client.answer("b", label="stable") == (2, 22)
    assert code_of(lambda: client.answer("b", label="canary"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(lambda: client.answer("a"))[0] is grpc.StatusCode.NOT_FOUND
    until(lambda: set(client.states("a").values()) == {50})
    assert client.serving("new") and client.serving("")
    assert code_of(lambda: client.serving("a"))[0] is grpc.StatusCode.NOT_FOUND
    client.reload(config_list(config("a", folder / "b"), config("b", folder / "b")))
    assert client.answer("a") == client.answer("b") == (3, 23)


def test_a_reload_that_cannot_be_changes_nothing(client: Client, folder: Path) -> None:
    for labels in ("", LABELS):  # what is not available yet may have no label
        client.reload(config_list(config("a", folder / "a"), config("b", folder / "b", SOME + labels)))
    before = (client.states("a"), client.states("b"))
    twice = config_list(config("a", folder / "a"), config("a", folder / "b"))
    assert code_of(lambda: client.reload(twice)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Illegal to list model a multiple times in config list",
    )
    moved = config("b", folder / "b", POLICY("latest {}") + 'version_labels { key: "canary" value: 3 }')
    assert code_of(lambda: client.reload(config_list(moved))) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 3 of model b, which is not currently available for inference",
    )
    assert code_of(lambda: client.reload("custom_model_config {}"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (client.states("a"), client.states("b")) == before
    assert client.answer("b", label="canary") == (2, 22)


def test_a_model_that_is_added_and_cannot_be_loaded_is_told_and_the_others_serve(
    client: Client, folder: Path
) -> None:
    added = config_list(config("a", folder / "a"), config("bad", folder / "nowhere"))
    code, text = code_of(lambda: client.reload(added))
    assert code is grpc.StatusCode.UNKNOWN
    assert text.startswith("Some models did not become available: {{name: bad")
    assert client.answer("a") == (4, 14)
    assert client.serving("") and client.serving("a") and not client.serving("bad")
    (folder / "late").mkdir()
    save_constant(folder / "late" / "1", 41)
    (folder / "late").rename(folder / "nowhere")
    until(lambda: client.serving("bad"))
    assert client.answer("bad") == (1, 41)


def test_metrics_tell_of_every_model(server: Server, client: Client, folder: Path) -> None:
    client.reload(config_list(config("a", folder / "a"), config("c", folder / "c")))
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as response:
        text = response.read().decode()
    for model, version in (("a", 4), ("c", 3)):
        line = f'serving_model_version{{failed="false",model="{model}",state="AVAILABLE",version="{version}"}} 1.0'
        assert line in text
    assert text.count("# TYPE serving_model_version gauge") == 1
