"""Every protocol of the worker over one repository."""

from __future__ import annotations

from libs.serving.call import Handler, Route
from libs.serving.health import Health
from services.torch_worker.protocols.kserve_grpc import KServeGrpc
from services.torch_worker.protocols.kserve_model import KServeModel
from services.torch_worker.protocols.kserve_rest import KServeRest
from services.torch_worker.protocols.seldon_grpc import SeldonGrpc
from services.torch_worker.protocols.seldon_rest import SeldonRest
from services.torch_worker.serving.repository import Repository


class Protocols:
    """What is served, by gRPC and by plain HTTP.

    Args:
        health: says whether the server takes traffic.
    """

    def __init__(self, repository: Repository, health: Health) -> None:
        model = KServeModel(repository)
        self._kserve = KServeGrpc(model, lambda: health.serving)
        self._kserve_rest = KServeRest(model, lambda: health.serving)
        self._seldon = SeldonGrpc(repository)
        self._seldon_rest = SeldonRest(repository)

    def handlers(self) -> dict[str, Handler]:
        """gRPC handlers by method path."""
        return {**self._seldon.handlers(), **self._kserve.handlers()}

    def routes(self) -> list[Route]:
        """Plain HTTP."""
        return [*self._kserve_rest.routes(), *self._seldon_rest.routes()]
