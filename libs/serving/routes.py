"""Finding the route of an HTTP request by its method and path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libs.serving.call import Route

_NO_PARAMS: Mapping[str, str] = {}


class Routes:
    """Routes by path, whole or with parts in braces: `/models/{name}/ready`, `/v1/{rest...}`. A whole path wins, and
    a pattern with dots comes last.

    Raises:
        ValueError: two routes have one method and path.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[tuple[str, ...], dict[str, Route]] = {}
        self._prefixes: dict[str, tuple[str, dict[str, Route]]] = {}
        for route in routes:
            prefix, _, rest = route.path.partition("{")
            if rest.endswith("...}"):
                by_method = self._prefixes.setdefault(prefix, (rest[:-4], {}))[1]
            elif rest:
                by_method = self._patterns.setdefault(tuple(route.path.split("/")), {})
            else:
                by_method = self._exact.setdefault(route.path, {})
            if route.method in by_method:
                raise ValueError(f"two routes for {route.method} {route.path}")
            by_method[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a request and what stands in its path for the parts in braces; None if there is none."""
        by_method, params = self._at(path)
        route = by_method.get(method)
        return None if route is None else (route, params)

    def methods(self, path: str) -> Mapping[str, Route]:
        """The routes of a path by method."""
        return self._at(path)[0]

    def _at(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, _NO_PARAMS
        parts = path.split("/")
        for pattern, by_method in self._patterns.items():
            if len(pattern) == len(parts):
                params = _match(pattern, parts)
                if params is not None:
                    return by_method, params
        for prefix, (name, by_method) in self._prefixes.items():
            if path.startswith(prefix):
                return by_method, {name: path[len(prefix) :]}
        return {}, _NO_PARAMS


def _match(pattern: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    params = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            params[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return params
