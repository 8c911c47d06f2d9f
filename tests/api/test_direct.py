"""Which requests are answered without FastAPI's routers, and by what."""

from typing import Any

import pytest

from server.api.dialects import DIALECTS, dialect_of
from server.api.direct import DirectRoutes

DIRECT = DirectRoutes([route for each in DIALECTS for route in each.router.routes])


@pytest.mark.parametrize(
    ("method", "path", "module", "name", "parts"),
    [
        ("GET", "/jobs/1f", "native", "job", {"job_id": "1f"}),
        ("POST", "/jobs", "native", "submit", {}),
        ("GET", "/api/v2/predictions/1f", "wavespeed", "result", {"job_id": "1f"}),
        ("GET", "/api/v3/predictions/1f/result", "wavespeed", "result", {"job_id": "1f"}),
        ("POST", "/api/v3/a/b/c", "wavespeed", "submit", {"owner": "a", "name": "b/c"}),
        ("GET", "/api/v1/predictions/1f", "vibedream", "result", {"prediction_id": "1f"}),
        ("GET", "/v3/async/task-result", "novita", "result", {}),
        ("GET", "/v1/predictions/1f", "replicate", "prediction", {"prediction_id": "1f"}),
        ("POST", "/v1", "runware", "tasks", {}),
    ],
)
def test_a_poll_or_submit_reaches_its_dialect(
    method: str, path: str, module: str, name: str, parts: dict[str, str]
) -> None:
    scope: dict[str, Any] = {"method": method, "path": path}
    endpoint = DIRECT.find(dialect_of(path).NAME, scope)
    assert endpoint is not None
    assert (endpoint.__module__.split(".")[3], endpoint.__name__) == (module, name)
    assert scope["path_params"] == parts


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v3/media/uploads"),  # it also looks like a submit, whose route comes later
        ("POST", "/api/v3/predictions/delete"),
        ("GET", "/api/v3/predictions"),
        ("DELETE", "/jobs/1f"),
        ("GET", "/jobs/1f/events"),
        ("GET", "/no/such"),
    ],
)
def test_all_other_requests_are_left_to_fastapi(method: str, path: str) -> None:
    assert DIRECT.find(dialect_of(path).NAME, {"method": method, "path": path}) is None
