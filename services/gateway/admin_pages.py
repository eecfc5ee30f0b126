"""The admin pages of one gateway."""

from __future__ import annotations

from services.gateway import metrics_page, metrics_text, status, status_page
from services.gateway.admin import Handler, Page, Request, html_page, json_page, text_page
from services.gateway.process import EnvoyAdmin
from services.gateway.status_monitor import Monitor, Sources


def pages(monitor: Monitor, sources: Sources) -> dict[str, Handler]:
    """The pages by path."""

    async def root(request: Request) -> Page:
        choice = status_page.Choice.of(request.query)
        view = await monitor.view()
        shown = status.document(view)
        names = status_page.shown(shown, choice)
        shown["plots"] = _points(monitor, names)
        if "part" in request.query:  # what the page replaces of itself
            return html_page(status_page.main(shown, choice))
        return html_page(status_page.page(shown, choice))

    async def as_json(request: Request) -> Page:
        """With `?task=69` only that one, with its plot."""
        document = status.document(await monitor.view())
        task = request.query.get("task")
        if task is not None:
            document["tasks"] = {name: found for name, found in document["tasks"].items() if name == task}
            document["plots"] = _points(monitor, [task])
        return json_page(document)

    async def ready(request: Request) -> Page:
        overview = sources.overview()
        return text_page(200, "ready") if overview.ready else text_page(503, overview.state)

    async def metrics(request: Request) -> Page:
        return Page(200, metrics_text.CONTENT_TYPE, metrics_page.render(await monitor.numbers()))

    async def envoy_stats(request: Request) -> Page:
        """Envoy's own statistics, as it names them; `?filter=REGEX` as Envoy has it."""
        envoy = sources.envoy()
        if envoy is None:
            return text_page(503, "Envoy is being started")
        return await _envoy_stats(envoy, request.query.get("filter", ""))

    return {
        "/": root,
        "/status.json": as_json,
        "/metrics": metrics,
        "/ready": ready,
        "/envoy/stats": envoy_stats,
    }


def _points(monitor: Monitor, tasks: list[str]) -> dict[str, list[dict[str, float | None]]]:
    return {
        name: [{"rate": p.rate, "error_rate": p.error_rate, "p99_s": p.p99_s} for p in points]
        for name, points in monitor.plots(tasks).items()
    }


async def _envoy_stats(envoy: EnvoyAdmin, filter_: str) -> Page:
    # Only what a regular expression of names needs: the rest of the admin interface is not reached through here.
    if len(filter_) > 200 or not all(c.isalnum() or c in "._-|^$()*+[]\\" for c in filter_):
        return text_page(400, "the filter is a regular expression of at most 200 characters")
    target = "/stats/prometheus?usedonly" + (f"&filter={filter_}" if filter_ else "")
    try:
        reply = await envoy.call(target)
    except OSError as error:
        return text_page(503, f"Envoy does not answer: {error}")
    return Page(200 if reply.status == 200 else 503, metrics_text.CONTENT_TYPE, reply.body)
