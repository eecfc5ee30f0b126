"""The servers that the torch worker is compared to: how each is started, and in which setting.

A setting here is the one that gave a peer its highest rate at 16 and 64 calls in flight of those that were tried; how
to ask it (gRPC or HTTP, which encoding) was chosen in the same way.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peer_calls import BentoHttp, Call, RawHttp, SeldonGrpc, TorchServeGrpc, V2Grpc, V2Http
from benchmarks.peer_process import Launch, NotRunError
from benchmarks.servers import free_port

SCRIPTS = Path(__file__).parent.absolute() / "peers"


@dataclass(frozen=True, slots=True)
class Own:
    """Where our worker comes from: the folder of PEXes, or a Python that has its packages and finds its sources."""

    dist: Path
    python: list[str] | None = None

    def launch(self, folder: Path, interpreter: bool, *arguments: str) -> Launch:
        """The worker with these arguments, or (`interpreter`) a script in its environment."""
        if self.python is not None:
            module = [] if interpreter else ["-m", "services.torch_worker"]
            environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd())}
            return Launch([*self.python, *module, *arguments], folder, environment)
        pex = self.dist / "torch-worker-cpu.pex"
        if not pex.exists():
            raise NotRunError(f"{pex} is not there; build it: ./pants package services/torch_worker:cpu")
        environment = {"PEX_INTERPRETER": "1"} if interpreter else {}
        return Launch([sys.executable, str(pex), *arguments], folder, environment)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server runs: the Python of its environment, the model's folder, an empty folder, its port."""

    python: Path
    model: Path
    folder: Path
    port: int
    own: Own

    def launch(self, program: str, *arguments: str, **environment: str) -> Launch:
        """A program of the peer's environment, or one of our scripts in it."""
        if program.endswith(".py"):
            command = [str(self.python), str(SCRIPTS / program)]
        else:
            command = [str(self.python.parent / program)]
        defaults = {
            "MMOE_FOLDER": str(self.model),
            "PYTHONPATH": str(SCRIPTS),
            "PATH": f"{self.python.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            # What a peer leaves in its user's home or in /tmp goes with the folder.
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
        }
        return Launch([*command, *arguments], self.folder, {**defaults, **environment})


@dataclass(frozen=True, slots=True)
class Server:
    """A row of the table. `warm_up_s` precedes the first measurement; `echoes`: it answers what it was asked."""

    name: str
    setting: str
    call: Call
    launch: Callable[[Place], Launch]
    environment: str = ""
    warm_up_s: int = 1
    echoes: bool = False


def _worker(place: Place) -> Launch:
    return place.own.launch(
        place.folder, False, "serve", "--model-dir", str(place.model), "--port", str(place.port)
    )


def _echo(place: Place) -> Launch:
    return place.own.launch(place.folder, True, str(SCRIPTS / "pyvoy_echo.py"), str(place.port))


def _seldon(place: Place, threads: str) -> Launch:
    for source in ("model.pth", "mmoe_net.py"):
        shutil.copy(place.model / source, place.folder)
    shutil.copy(SCRIPTS / "seldon_mmoe.py", place.folder)
    return place.launch(
        "seldon-core-microservice", "seldon_mmoe", "--service-type", "MODEL",
        "--grpc-port", str(place.port), "--http-port", str(free_port()), "--metrics-port", str(free_port()),
        PYTHONPATH=str(place.folder), SELDON_MMOE_THREADS=threads,
    )  # fmt: skip


_TORCHSERVE = """\
inference_address=http://127.0.0.1:{http}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_address=127.0.0.1
grpc_inference_port={grpc}
grpc_management_address=127.0.0.1
grpc_management_port={grpc_management}
disable_token_authorization=true
disable_system_metrics=true
enable_envvars_config=true
default_workers_per_model=1
job_queue_size=1000
"""
_TORCHSERVE_LOG = """\
<Configuration>
  <Appenders><Console name="STDOUT"/></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
"""


def _torchserve(place: Place, grpc: bool, workers: int = 1, batch: int = 64, delay_ms: int = 2) -> Launch:
    if shutil.which("java") is None:
        raise NotRunError("java is not installed; on Debian 12: apt-get install -y openjdk-17-jre-headless")
    archive = place.folder / "store" / "mmoe"
    (archive / "MAR-INF").mkdir(parents=True)
    shutil.copy(SCRIPTS / "torchserve_mmoe.py", archive)
    manifest = {
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": "mmoe", "modelVersion": "1.0", "handler": "torchserve_mmoe.py:handle",
            "configFile": "model-config.yaml",
        },
    }  # fmt: skip
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (archive / "model-config.yaml").write_text(
        f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: {batch}\nmaxBatchDelay: {delay_ms}\n"
    )
    ports = {name: free_port() for name in ("http", "grpc", "management", "metrics", "grpc_management")}
    ports["grpc" if grpc else "http"] = place.port
    config = place.folder / "config.properties"
    config.write_text(_TORCHSERVE.format(**ports))
    (place.folder / "log4j2.xml").write_text(_TORCHSERVE_LOG)
    return place.launch(
        "torchserve", "--start", "--foreground", "--model-store", str(archive.parent), "--models", "mmoe=mmoe",
        "--ts-config", str(config), "--log-config", str(place.folder / "log4j2.xml"), "--no-config-snapshots",
        "--disable-token-auth", OMP_NUM_THREADS="1",
    )  # fmt: skip


def _mlserver(place: Place, grpc: bool, workers: int = 0, delay_ms: float = 1) -> Launch:
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    ports["grpc_port" if grpc else "http_port"] = place.port
    settings = {
        **ports, "host": "127.0.0.1", "debug": False, "parallel_workers": workers, "metrics_endpoint": None,
        "gzip_enabled": False,
    }  # fmt: skip
    (place.folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "mmoe", "implementation": "mlserver_mmoe.Mmoe", "max_batch_size": 64,
        "max_batch_time": delay_ms / 1e3,
    }  # fmt: skip
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return place.launch("mlserver", "start", ".")


def _pytriton(place: Place, grpc: bool, delay_us: int = 0) -> Launch:
    ports = (place.port, free_port()) if grpc else (free_port(), place.port)
    return place.launch("pytriton_mmoe.py", *map(str, ports), str(delay_us))


def _litserve(place: Place, delay_ms: float = 0, servers: int = 1) -> Launch:
    return place.launch("litserve_mmoe.py", str(place.port), str(delay_ms), str(servers))


def _kserve(place: Place, grpc: bool, workers: int = 1) -> Launch:
    grpc_port, http_port = (place.port, free_port()) if grpc else (free_port(), place.port)
    return place.launch(
        "kserve_mmoe.py",
        "--grpc_port",
        str(grpc_port),
        "--http_port",
        str(http_port),
        "--workers",
        str(workers),
    )


def _bentoml(place: Place) -> Launch:
    return place.launch(
        "bentoml", "serve", "bentoml_mmoe:Mmoe", "--host", "127.0.0.1", "--port", str(place.port),
        "--working-dir", str(SCRIPTS), BENTOML_DO_NOT_TRACK="True", BENTOML_HOME=str(place.folder),
    )  # fmt: skip


def _ray(place: Place, delay_ms: float = 0, **environment: str) -> Launch:
    folder = str(place.folder)
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return place.launch("ray_mmoe.py", str(place.port), str(delay_ms), **{**files, **environment})


ECHO = Server(
    "pyvoy echo (limit)",
    "the worker's transport without a model, one Python thread",
    SeldonGrpc(),
    _echo,
    echoes=True,
)
WORKER = Server("torch-worker", "as it comes", SeldonGrpc(), _worker)
PEERS = (
    Server(
        "seldon-core as it comes",
        "gRPC, default settings",
        SeldonGrpc(),
        functools.partial(_seldon, threads="default"),
        "seldon",
    ),
    Server(
        "seldon-core",
        "gRPC, one PyTorch thread",
        SeldonGrpc(),
        functools.partial(_seldon, threads="one"),
        "seldon",
    ),
    Server(
        "torchserve",
        "HTTP/1.1, raw float32",
        RawHttp("/predictions/mmoe"),
        functools.partial(_torchserve, grpc=False),
        "torchserve",
        warm_up_s=8,
    ),
    Server("mlserver", "gRPC", V2Grpc(), functools.partial(_mlserver, grpc=True), "mlserver"),
    Server("pytriton", "gRPC", V2Grpc(), functools.partial(_pytriton, grpc=True), "pytriton"),
    Server("litserve", "HTTP/1.1", RawHttp("/predict"), _litserve, "litserve"),
    Server("kserve", "HTTP/1.1", V2Http(binary=True), functools.partial(_kserve, grpc=False), "kserve"),
    Server("bentoml", "HTTP/1.1", BentoHttp(), _bentoml, "bentoml"),
    Server(
        "ray",
        "HTTP/1.1",
        RawHttp("/"),
        functools.partial(_ray, RAY_SERVE_THROUGHPUT_OPTIMIZED="1", RAY_SERVE_ENABLE_HA_PROXY="1"),
        "ray",
    ),
)
