"""Endpoints that are called most often, found without FastAPI, whose routers take a third of a poll's time.

`depends.direct` and `depends.takes_request` mark them. An address leads to the same endpoint as through FastAPI: the
routes of its dialect are tried in the same order, and where the first that fits has no mark, FastAPI answers.
"""

import re
from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

from server.api.dialects import dialect_of
from server.api.dialects.depends import Endpoint, is_direct


class DirectRoutes:
    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """`routes`: all of the application."""
        self._routes: dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint | None]]] = {}
        for route in iter_route_contexts(routes):
            for method in route.methods or ():
                endpoint = route.endpoint if is_direct(route.endpoint) else None
                key = dialect_of(route.path or "/").NAME, method
                self._routes.setdefault(key, []).append((route.path_regex, endpoint))

    def find(self, dialect: str, scope: Scope) -> Endpoint | None:
        """The endpoint of a request, after the parts of its path have been put into the scope; None: FastAPI has to
        find it."""
        for pattern, endpoint in self._routes.get((dialect, scope["method"]), ()):
            if found := pattern.match(scope["path"]):
                scope["path_params"] = found.groupdict()
                return endpoint
        return None
