"""The operators' HTTP port: a status page, the same as JSON, Prometheus metrics, readiness. GET only."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S = 10.0
_MAX_HEAD_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


Handler = Callable[[], Awaitable[Page]]

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class AdminServer:
    """Serves pages by exact path."""

    def __init__(self, pages: dict[str, Handler]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; the port taken. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD_BYTES)
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                page = await self._answer(reader)
                head = (
                    f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
                    f"Content-Length: {len(page.body)}\r\nCache-Control: no-store\r\n"
                    "Connection: close\r\n\r\n"
                )
                writer.write(head.encode() + page.body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):  # the client left, or dawdled
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> Page:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _text(400, "the request's head is too long")
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3:
            return _text(400, "not an HTTP request")
        method, target, _ = parts
        if method != "GET":
            return _text(405, "only GET")
        handler = self._pages.get(target.partition("?")[0])
        if handler is None:
            return _text(404, "there is: " + " ".join(self._pages))
        try:
            return await handler()
        except Exception:
            log.exception("the admin page %s failed", target)
            return _text(500, "failed; the log says why")


def _text(status: int, text: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", (text + "\n").encode())


def ready_page(ready: bool, why_not: str) -> Page:
    return _text(200, "ready") if ready else _text(503, why_not)


def json_page(document: Json) -> Page:
    return Page(200, "application/json", json.dumps(document, indent=1).encode())


def metrics_page(*parts: bytes) -> Page:
    return Page(200, "text/plain; version=0.0.4; charset=utf-8", b"".join(parts))


_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:2rem;color:#222}h1{font-size:1.3rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:left;border-bottom:1px
solid #ddd}
td.n{text-align:right}.bad{color:#b00020}.good{color:#1b6e1b}pre{background:#fff3f3;padding:.7rem}"""


def status_page(status: Json) -> Page:
    """The status document for human eyes."""
    gateway, config = status["gateway"], status["config"]
    rows = []
    for task_id, task in status["tasks"].items():
        cells = f"<td rowspan={max(1, len(task['instances']))}>{task_id}</td>"
        cells += f"<td class=n rowspan={max(1, len(task['instances']))}>{task['timeout_ms']} ms</td>"
        if not task["instances"]:
            rows.append(
                f"<tr>{cells}<td colspan=6 class=bad>no instance: {_list(task['configured'])} has no"
                " address</td></tr>"
            )
        for instance in task["instances"]:
            mood = "good" if instance["health"] == "healthy" else "bad"
            rows.append(
                f"<tr>{cells}<td>{html.escape(instance['address'])}</td>"
                f"<td class={mood}>{html.escape(instance['health'])}</td>"
                f"<td class=n>{instance['weight']}</td>"
                f"<td class=n>{instance['in_flight']}</td><td class=n>{instance['requests']}</td>"
                f"<td class=n>{instance['errors']}</td></tr>"
            )
            cells = ""
    problems = [
        *config["errors"],
        *([config["envoy_error"]] if config["envoy_error"] else []),
        *(f"{name}: {error}" for name, error in config["unresolved"].items()),
    ]
    loaded = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(config["loaded_at"]))
    mood = "good" if gateway["ready"] else "bad"
    page = f"""<!doctype html><meta charset=utf-8><title>gateway</title><style>{_STYLE}</style>
<h1>gateway {html.escape(gateway["listen"])}: <span class={mood}>{gateway["state"]}</span></h1>
<p>node file {html.escape(config["nodes"])}, version {config["version"]}, loaded {loaded};
{"accepted by Envoy" if config["accepted"] else "on its way to Envoy"}; {config["rejected"]} edits rejected;
Envoy restarts: {gateway["envoy_restarts"]}</p>
{"<pre class=bad>" + html.escape(chr(10).join(problems)) + "</pre>" if problems else ""}
<table><tr><th>task<th>timeout<th>instance<th>health<th>weight<th>in flight<th>calls<th>errors</tr>
{"".join(rows)}</table>
<p><a href="/status.json">status.json</a> <a href="/metrics">metrics</a> <a href="/ready">ready</a></p>"""
    return Page(200, "text/html; charset=utf-8", page.encode())


def _list(items: list[str]) -> str:
    return html.escape(", ".join(items))
