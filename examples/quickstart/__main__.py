"""Starts the whole system on loopback, sends it real requests, and shows the answers and who gave them."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import grpc

from examples.quickstart.processes import Process, Processes, StartError
from examples.quickstart.requests import Answer, Caller, rounds

EPILOG = """\
examples:
  quickstart up                     start everything, send requests, stay up until Ctrl-C
  quickstart up --once              the same, then stop: exits 0 only if every answer was right
  quickstart call digits var/models/digits/samples/7-0.png
  quickstart call textcnn "我想租一套两室一厅的房子"
"""

# Instances of each model: enough to see how load is spread, few enough for a laptop.
INSTANCES = 2
# Rounds of the same calls: enough for a spread that is worth looking at.
ROUNDS = 5
READY_TIMEOUT_S = 60.0
# Generous for a laptop under load; production node files name what the callers need.
TIMEOUT_MS = 3000


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.command == "call":
        return call(options)
    # A closed terminal and SIGTERM end the context managers as Ctrl-C does, so no process is left behind; not by way
    # of SIGINT itself, which a shell lets its background jobs ignore.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return up(options)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 130
    except StartError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1


def up(options: argparse.Namespace) -> int:
    """Starts the services, calls them, reports; returns 0 when every answer was right."""
    var: Path = options.var
    started = time.monotonic()
    with Processes(options.dist, var / "quickstart" / "logs") as processes:
        print("Starting ...", flush=True)
        tasks = start_backends(processes, options.models)
        for process in processes.running:
            process.wait_ready()
            print(f"  {process.name:<18} {process.address:<18} pid {process.pid}", flush=True)
        nodes = var / "quickstart" / "nodes.txt"
        nodes.write_text(node_file(tasks))
        gateway = processes.start(
            "gateway", "gateway", "serve", "--nodes", str(nodes),
            "--listen", f"127.0.0.1:{options.port}", "--admin", f"127.0.0.1:{options.admin_port}",
        )  # fmt: skip
        gateway.wait_ready()
        print(f"  {'gateway':<18} {gateway.address:<18} pid {gateway.pid}", flush=True)
        print(
            f"Ready in {time.monotonic() - started:.0f} s. Calling every model through the gateway:\n",
            flush=True,
        )
        names = {process.address: process.name for process in processes.running}
        caller = Caller(gateway.address)
        try:
            grpc.channel_ready_future(caller.channel).result(timeout=READY_TIMEOUT_S)
            answers = ask_all(caller, options.models, names)
        finally:
            caller.close()
        right = report(answers, names)
        if options.once:
            print("\nStopping ...", flush=True)
        else:
            print(next_steps(gateway, processes.running, nodes, options), flush=True)
            stay(processes.running)
    return 0 if right else 1


def start_backends(processes: Processes, models: Path) -> dict[int, list[Process]]:
    """Starts the model servers without waiting for them; returns them by task id."""
    any_port = ("--host", "127.0.0.1", "--port", "0")
    tasks: dict[int, list[Process]] = defaultdict(list)
    for number in range(1, INSTANCES + 1):
        for task, model in ((39, "digits"), (111, "mmoe")):
            folder = str(models / model)
            tasks[task].append(
                processes.start(
                    f"{model}-{number}", "torch-worker-cpu", "serve", "--model-dir", folder, *any_port
                )
            )
        for task, model in ((69, "textcnn"), (70, "half_plus_two")):
            arguments = ("--model-name", f"{model}-{task}", "--model-base-path", str(models / model))
            tasks[task].append(
                processes.start(f"{model}-{number}", "tf-serving", "serve", *arguments, *any_port)
            )
    return tasks


def node_file(tasks: dict[int, list[Process]]) -> str:
    """The gateway's node file: a task a line."""
    lines = ["# task=timeout in ms,instances ...   edit me while the gateway runs"]
    for task, instances in sorted(tasks.items()):
        lines.append(f"{task}={TIMEOUT_MS}," + ",".join(instance.address for instance in instances))
    return "\n".join(lines) + "\n"


def ask_all(caller: Caller, models: Path, names: dict[str, str]) -> list[Answer]:
    """Makes all calls, ROUNDS times; prints the first round's answers."""
    calls = rounds(caller, models)
    answers: list[Answer] = []
    print(f"  {'model':<14}{'asked':<46}{'answer':<24}served by")
    for number in range(ROUNDS):
        for ask in calls:
            answer = ask()
            answers.append(answer)
            if number == 0:
                mark = "" if answer.right else "   <-- not what the model says when loaded directly"
                served = names.get(answer.instance, answer.instance)
                print(
                    f"  {answer.model:<14}{_pad(answer.asked, 46)}{answer.said:<24}{served}{mark}", flush=True
                )
    return answers


def report(answers: Sequence[Answer], names: dict[str, str]) -> bool:
    """Prints how the load was spread and whether the answers were right; returns the latter."""
    print(f"\nHow {len(answers)} calls were spread:")
    by_model: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        by_model[answer.model][names.get(answer.instance, answer.instance)] += 1
    for model, instances in by_model.items():
        shares = "   ".join(
            f"{name} {'#' * (30 * n // instances.total())} {n}" for name, n in sorted(instances.items())
        )
        print(f"  {model:<14}{shares}")
    wrong = sum(not answer.right for answer in answers)
    if wrong:
        print(f"\n{wrong} of {len(answers)} answers differ from those of the models loaded directly.")
    else:
        print(f"\nAll {len(answers)} answers equal those of the models loaded directly.")
    return wrong == 0


def next_steps(gateway: Process, running: Sequence[Process], nodes: Path, options: argparse.Namespace) -> str:
    """What to try while everything is up."""
    worker = next(process for process in running if process.name == "digits-1")
    admin = re.search(r"admin on (http://\S+)", gateway.log.read_text())
    call = f"python3.11 {options.dist / 'quickstart.pex'} call --gateway {gateway.address}"
    return f"""
Everything stays up until Ctrl-C. In another terminal:

  status page           {admin[1] if admin else "see the gateway's log"}
  classify a picture    {call} digits {options.models}/digits/samples/7-0.png
  classify a sentence   {call} textcnn "how much is the rent"
  kill an instance      kill -9 {worker.pid}      (the calls above go on without an error)
  take it out           $EDITOR {nodes}      (live in under a second)
  a worker's metrics    curl http://{worker.address}/metrics
  logs                  tail -f {gateway.log.parent}/*.log
"""


def stay(running: Sequence[Process]) -> None:
    """Waits for Ctrl-C, saying once when a service has ended."""
    gone: set[str] = set()
    while True:
        threading.Event().wait(1.0)
        for process in running:
            if process.popen.poll() is not None and process.name not in gone:
                gone.add(process.name)
                print(f"{process.name} ended with status {process.popen.returncode}", flush=True)


def call(options: argparse.Namespace) -> int:
    """Calls one model of a running quickstart."""
    caller = Caller(options.gateway)
    try:
        if options.model == "digits":
            digit, probability, instance = caller.digits(Path(options.input).read_bytes())
            print(f"{digit}  probability {probability:.3f}  served by {instance}")
        else:
            intents, scores, instance = caller.textcnn(options.input)
            pairs = ", ".join(f"{intent} {score:.3f}" for intent, score in zip(intents, scores, strict=True))
            print(f"{pairs}  served by {instance}")
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)  # type: ignore[attr-defined]
        return 1
    except OSError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    finally:
        caller.close()
    return 0


def _pad(text: str, width: int) -> str:
    """Pads to a width in terminal cells: a Chinese character takes two."""
    cells = sum(2 if ord(character) > 0x2E7F else 1 for character in text)
    return text + " " * max(1, width - cells)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start everything and send requests")
    start.add_argument("--once", action="store_true", help="stop when the requests are answered")
    start.add_argument(
        "--port", type=int, default=8500, help="the gateway's port; 0: a free one [%(default)s]"
    )
    start.add_argument("--admin-port", type=int, default=9901, help="the status page's port [%(default)s]")
    start.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    start.add_argument(
        "--models", type=Path, default=Path("var/models"), help="folder of the models [%(default)s]"
    )
    start.add_argument(
        "--var", type=Path, default=Path("var"), help="folder for logs and the node file [%(default)s]"
    )
    one = commands.add_parser("call", help="call one model of a running quickstart")
    one.add_argument("model", choices=("digits", "textcnn"))
    one.add_argument("input", help="an image file for digits, a sentence for textcnn")
    one.add_argument("--gateway", default="127.0.0.1:8500", metavar="HOST:PORT", help="[%(default)s]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
