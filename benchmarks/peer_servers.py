"""The servers that the torch worker is compared to: how each is started, and in which setting.

A setting here is the one that gave a peer its highest rate at 16 and 64 calls in flight of those that were tried; how
to ask it (gRPC or HTTP, which encoding) was chosen in the same way.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peer_calls import BentoHttp, Call, RawHttp, SeldonGrpc, V2Grpc, V2Http
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
    """A row of the table. `warm_up_s` of load precede the first measurement; `echoes`: it answers what it was asked."""

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


def _torchserve(
    place: Place, grpc: bool = False, workers: int = 1, batch: int = 64, delay_ms: int = 2
) -> Launch:
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
        "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 64\nmaxBatchDelay: 2\n"
    )
    ports = {name: free_port() for name in ("http", "grpc", "management", "metrics", "grpc_management")}
    ports["http"] = place.port
    config = place.folder / "config.properties"
    config.write_text(_TORCHSERVE.format(**ports))
    (place.folder / "log4j2.xml").write_text(_TORCHSERVE_LOG)
    return place.launch(
        "torchserve", "--start", "--foreground", "--model-store", str(archive.parent), "--models", "mmoe=mmoe",
        "--ts-config", str(config), "--log-config", str(place.folder / "log4j2.xml"), "--no-config-snapshots",
        "--disable-token-auth", OMP_NUM_THREADS="1",
    )  # fmt: skip


def _mlserver(place: Place) -> Launch:
    settings = {
        "http_port": place.port, "grpc_port": free_port(), "metrics_port": free_port(), "host": "127.0.0.1",
        "debug": False, "parallel_workers": 0, "metrics_endpoint": None, "gzip_enabled": False,
    }  # fmt: skip
    (place.folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "mmoe", "implementation": "mlserver_mmoe.Mmoe", "max_batch_size": 64, "max_batch_time": 0.001,
    }  # fmt: skip
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return place.launch("mlserver", "start", ".")


def _pytriton(place: Place) -> Launch:
    return place.launch("pytriton_mmoe.py", str(place.port), str(free_port()))


def _litserve(place: Place) -> Launch:
    return place.launch("litserve_mmoe.py", str(place.port))


def _kserve(place: Place) -> Launch:
    return place.launch("kserve_mmoe.py", "--grpc_port", str(place.port), "--http_port", str(free_port()))


def _bentoml(place: Place) -> Launch:
    return place.launch(
        "bentoml", "serve", "bentoml_mmoe:Mmoe", "--host", "127.0.0.1", "--port", str(place.port),
        "--working-dir", str(SCRIPTS), BENTOML_DO_NOT_TRACK="True", BENTOML_HOME=str(place.folder),
    )  # fmt: skip


def _ray(place: Place) -> Launch:
    folder = str(place.folder)
    return place.launch(
        "ray_mmoe.py",
        str(place.port),
        # The two switches of Ray's guide to high throughput; without them it is ten times slower here.
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_HAPROXY_NBTHREAD="1",  # of 4: the load generator and the replica want cores too
        RAY_SERVE_HAPROXY_METRICS_ENABLED="0",
        RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=f"{folder}/haproxy.cfg",
        RAY_SERVE_HAPROXY_SOCKET_PATH=f"{folder}/admin.sock",
        RAY_SERVE_HAPROXY_SERVER_STATE_BASE=folder,
        RAY_SERVE_HAPROXY_SERVER_STATE_FILE=f"{folder}/server-state",
        RAY_USAGE_STATS_ENABLED="0",
    )


ECHO = Server(
    "pyvoy echo (limit)",
    "the worker's transport without a model: its bytes come back, one Python thread",
    SeldonGrpc(),
    _echo,
    echoes=True,
)
WORKER = Server("torch-worker", "as it comes; Seldon gRPC", SeldonGrpc(), _worker)
PEERS = (
    Server(
        "seldon-core as it comes",
        "its microservice, Seldon gRPC, default settings: PyTorch starts a thread for each core",
        SeldonGrpc(),
        partial(_seldon, threads="default"),
        "seldon",
    ),
    Server(
        "seldon-core",
        "one PyTorch thread",
        SeldonGrpc(),
        partial(_seldon, threads="one"),
        "seldon",
    ),
    Server(
        "torchserve",
        "raw float32 over HTTP/1.1, batches of 64 with a delay of 2 ms, one worker, no request logs. gRPC, delays of 1"
        " and 5 ms and a second worker made no difference beyond the noise",
        RawHttp("/predictions/mmoe"),
        _torchserve,
        "torchserve",
        warm_up_s=12,  # Java compiles what it finds hot
    ),
    Server(
        "mlserver",
        "adaptive batching, 64 rows or 1 ms, V2 JSON over HTTP/1.1, no metrics or request logs. V2 gRPC took a fifth"
        " more CPU, a parallel worker twice as much",
        V2Http(),
        _mlserver,
        "mlserver",
    ),
    Server(
        "pytriton",
        "Triton's dynamic batching, up to 64 without delay, raw float32 over V2 gRPC. Slower: HTTP/1.1 with the binary"
        " extension, a delay of 0.5 ms",
        V2Grpc(),
        _pytriton,
        "pytriton",
    ),
    Server(
        "litserve",
        "batches of 64 with a timeout of 2 ms, two API servers, its fast queue, raw float32 over HTTP/1.1. Without a"
        " timeout its worker polls and takes a core from the others",
        RawHttp("/predict"),
        _litserve,
        "litserve",
    ),
    Server(
        "kserve",
        "raw float32 over V2 gRPC, no latency logs; the SDK itself does not batch. HTTP/1.1 with the binary extension"
        " was slower, with two processes too",
        V2Grpc(),
        _kserve,
        "kserve",
    ),
    Server(
        "bentoml",
        "adaptive batching, up to 64, two workers, base64 of float32 in JSON over HTTP/1.1, no metrics or request logs",
        BentoHttp(),
        _bentoml,
        "bentoml",
    ),
    Server(
        "ray",
        "Ray Serve's high-throughput mode: HAProxy with one thread in front, one event loop in the replica; batches of"
        " 64 without delay, raw float32 over HTTP/1.1, no request logs",
        RawHttp("/"),
        _ray,
        "ray",
    ),
)
