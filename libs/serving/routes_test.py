from __future__ import annotations

import pytest

from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.plain_http import plain_failure
from libs.serving.routes import Routes


async def _answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def route(method: str, path: str) -> Route:
    return Route(method, path, _answer, plain_failure)


ROUTES = [
    route("GET", "/models/{name}"),
    route("POST", "/models/{name}"),
    route("GET", "/models/index"),
    route("POST", "/models/{name}/versions/{version}/infer"),
    route("GET", "/files/{path...}"),
    route("GET", "/files/{name}/size"),
]


def test_a_whole_path_wins_over_a_pattern() -> None:
    routes = Routes(ROUTES)
    assert routes.find("GET", "/models/index") == (ROUTES[2], {})
    assert routes.find("GET", "/models/a") == (ROUTES[0], {"name": "a"})
    assert routes.find("POST", "/models/a b/versions/7/infer") == (ROUTES[3], {"name": "a b", "version": "7"})


def test_a_pattern_with_dots_takes_what_is_left_when_no_other_fits() -> None:
    routes = Routes(ROUTES)
    for path in ("", "a", "a/b:c", "a//"):
        assert routes.find("GET", f"/files/{path}") == (ROUTES[4], {"path": path})
    assert routes.find("GET", "/files/a/size") == (ROUTES[5], {"name": "a"})
    assert routes.find("GET", "/files") is None
    assert list(routes.methods("/files/a/b")) == ["GET"]


def test_what_no_route_serves() -> None:
    routes = Routes(ROUTES)
    for path in ("/models", "/models/", "/models/a/", "/models/a/versions//infer", "/", ""):
        assert routes.find("GET", path) is None and not routes.methods(path), path
    assert routes.find("DELETE", "/models/a") is None
    assert sorted(routes.methods("/models/a")) == ["GET", "POST"]


def test_one_route_for_each_method_and_path() -> None:
    with pytest.raises(ValueError, match="two routes for GET /a"):
        Routes([route("GET", "/a"), route("GET", "/a")])
