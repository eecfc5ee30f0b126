"""The dl-inference command."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from dl_inference import __version__, cli_input
from dl_inference.calls import Call, health, kserve_v2, pytorch, task_of, tensorflow
from dl_inference.client import Client
from dl_inference.closed_loop import run
from dl_inference.errors import InferenceError
from dl_inference.options import Options, Tls

PROTOCOLS = ("tensorflow", "pytorch", "v2")


class _Settings:
    """What the options before the command say."""

    def __init__(self, address: str, options: Options, nodes: str) -> None:
        self.address, self.options, self.nodes = address, options, nodes

    def client(self) -> Client:
        if self.nodes:
            return Client.direct(self.nodes, options=self.options)
        return Client(self.address, self.options)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--address", default="127.0.0.1:8500", show_default=True, metavar="HOST:PORT", help="gateway or server"
)
@click.option(
    "--nodes", default="", metavar="FILE", help="call the instances of a node file, without a gateway"
)
@click.option(
    "--timeout", default=10.0, show_default=True, metavar="S", help="of each call, with its retries"
)
@click.option(
    "--tls/--plaintext", default=False, show_default=True, help="encrypt, trusting the machine's authorities"
)
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False), help="trust these authorities (PEM); means --tls"
)
@click.option(
    "--cert", type=click.Path(exists=True, dir_okay=False), help="this caller's certificate chain (PEM)"
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="and its key (PEM)")
@click.option("--api-key", envvar="DL_INFERENCE_API_KEY", default="", help="or $DL_INFERENCE_API_KEY")
@click.option("--token", envvar="DL_INFERENCE_TOKEN", default="", help="bearer token, or $DL_INFERENCE_TOKEN")
@click.version_option(__version__, message="%(version)s")
@click.pass_context
def main(
    context: click.Context,
    address: str,
    nodes: str,
    timeout: float,
    tls: bool,
    ca: str | None,
    cert: str | None,
    key: str | None,
    api_key: str,
    token: str,
) -> None:
    """Call models of a dl_inference service.

    \b
    dl-inference predict --model half_plus_two-70 --data '{"x": [[1.0], [2.0]]}'
    dl-inference predict --task 39 --input digit.png
    dl-inference predict --model resnet-12 --protocol v2 --input images.npz
    dl-inference bench --task 111 --input row.npy --in-flight 16 --seconds 10
    dl-inference health
    """
    secure: Tls | bool = tls
    if ca or cert or key:
        if bool(cert) != bool(key):
            raise click.UsageError("give both --cert and --key, or neither")
        secure = Tls(_bytes(ca), _bytes(cert), _bytes(key))
    options = Options(timeout_s=timeout, tls=secure, api_key=api_key, token=token)
    context.obj = _Settings(address, options, nodes)


def _bytes(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _request_options(command: Any) -> Any:
    for option in (
        click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="for a PyTorch model's hooks"),
        click.option("--signature", default="", help="of a TensorFlow model"),
        click.option("--data", metavar="JSON", help="the input itself, as a JSON file would have it"),
        click.option(
            "--input", "file", metavar="FILE",
            help=".json, .npy, .npz, a text (.txt) or any other file as bytes; - is JSON from stdin",
        ),
        click.option("--protocol", type=click.Choice(PROTOCOLS), help="[tensorflow with --model, pytorch with --task]"),
        click.option("--task", type=click.IntRange(1), help="task id"),
        click.option("--model", default="", metavar="NAME", help="model's name; its number is the task: textcnn-69"),
    ):  # fmt: skip
        command = option(command)
    return command


def _call(
    model: str,
    task: int | None,
    protocol: str | None,
    file: str | None,
    data: str | None,
    signature: str,
    tags: Any,
) -> Call[Any]:
    if not model and task is None:
        raise click.UsageError("say which model: --model NAME, or --task ID")
    if (file is None) == (data is None):
        raise click.UsageError("give the input: --input FILE or --data JSON")
    protocol = protocol or ("tensorflow" if model else "pytorch")
    try:
        value = cli_input.read(file) if file is not None else cli_input.parse(data or "")
        if protocol == "pytorch":
            number = task or task_of(model)
            if number is None:
                raise click.UsageError(f"the name {model!r} says no task: give --task")
            return pytorch(
                number, cli_input.payload(value), tags=dict(tag.partition("=")[::2] for tag in tags)
            )
        inputs = cli_input.named(value)
        if protocol == "v2":
            return kserve_v2(model, inputs, task=task)
        return tensorflow(model, inputs, signature=signature, task=task)
    except (cli_input.InputError, InferenceError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@_request_options
@click.option(
    "--output", type=click.Path(dir_okay=False), help="write arrays to this .npz instead of JSON to stdout"
)
@click.pass_obj
def predict(settings: _Settings, /, output: str | None, **request: Any) -> None:
    """Call a model once and print its answer as JSON.

    JSON input for TensorFlow and v2 is an object, name to value; a value may be {"dtype": "int64", "data": [...]}, and
    floats are float32 unless it says otherwise. For PyTorch it is an array of numbers, a string or an object.
    """
    call = _call(**request)
    with settings.client() as client:
        try:
            reply = client.call(call)
        except (InferenceError, ValueError, OSError) as error:
            raise click.ClickException(_with_place(error)) from None
    if output:
        cli_input.write_npz(Path(output), reply.value)
    else:
        click.echo(cli_input.as_json(reply.value))
    attempts = f", attempt {reply.attempts}" if reply.attempts > 1 else ""
    click.echo(f"{reply.instance or settings.address} in {reply.seconds * 1000:.1f} ms{attempts}", err=True)


def _with_place(error: Exception) -> str:
    instance = getattr(error, "instance", "")
    return f"{error} (said by {instance})" if instance else str(error)


@main.command()
@_request_options
@click.option(
    "--in-flight", type=click.IntRange(1, 10_000), default=16, show_default=True, help="calls at a time"
)
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True)
@click.pass_obj
def bench(settings: _Settings, /, in_flight: int, seconds: float, **request: Any) -> None:
    """Send one request again and again, and print rate and latency. Exit status 1 when a call fails."""
    call = _call(**request)
    try:
        result = asyncio.run(
            run(settings.address, settings.nodes, settings.options, call, in_flight, seconds)
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(result.table())
    if result.failures:
        sys.exit(1)


@main.command(name="health")
@click.argument("service", default="")
@click.pass_obj
def health_command(settings: _Settings, /, service: str) -> None:
    """Ask whether the server, or one SERVICE of it, serves (grpc.health.v1). Exit status 1 when it does not."""
    with settings.client() as client:
        try:
            serving = client.call(health(service)).value
        except InferenceError as error:
            raise click.ClickException(str(error)) from None
    click.echo("SERVING" if serving else "NOT_SERVING")
    sys.exit(0 if serving else 1)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(dl-inference completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "dl-inference", "_DL_INFERENCE_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="dl-inference")
