"""The documents, and whether the server keeps to them.

Each operation is called with what its schema allows and with what it does not, in turn about things that are there.
No worker runs, but for calls that wait for one: no picture is worked on. schemathesis is imported by the one test that
needs it, because each process of the suite imports all test modules.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import requests
from fastapi.openapi.utils import get_openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server.api.app import create_app
from server.api.dialects import DIALECTS, wavespeed
from server.api.openapi.document import document
from server.errors import JobFailed
from tests.api.dialects.submits import SUBMITS
from tests.conftest import Live, LiveServer, MakeConfig, draw

EXAMPLES = 8
"""Per operation; six times as many in `make test-all`."""
MAX_QUEUE = 12
"""So few that some submits are refused."""

FILE = draw(64, 1)
HOOKS = ("url", "webhook", "webhook_completed", "webhook_url", "webhookURL", "uploadEndpoint")
NOBODY = "http://127.0.0.1:9/"
"""An address that webhooks are not sent to."""
PICTURE = "data:image/png;base64," + base64.b64encode(FILE).decode()
EXCLUSIVE = ("target", "size", "width", "height")
"""Of our own API: none of them may stand beside a scale, or a picture."""
OPERATIONS = [(each.NAME, label) for each in DIALECTS for label in each.openapi.OPERATIONS]
OLDER, NEWER = "/api/v2/", "/api/v3/"
"""WaveSpeed's. The same functions answer at both, so only `make test-all` calls the older addresses."""
CALLS = [
    pytest.param(name, label, examples, id=f"{name} {label} {examples}", marks=pytest.mark.slow if slow else ())
    for name, label in OPERATIONS
    for examples, slow in ((EXAMPLES, OLDER in label), (6 * EXAMPLES, True))
]


class Things:
    """What there is on a server, to be asked for: jobs in every state, files, and a ticket for one."""

    def __init__(self, live: Live, dialect: str) -> None:
        self._live, self._dialect = live, dialect
        succeeded, failed, cancelled = self._submit(), None, None
        done = live.worker.finish()
        failed = self._submit()
        live.worker.fail(JobFailed("it broke"))
        cancelled = self._submit()
        newest = live.client.get("/jobs").json()["jobs"][0]["id"]
        assert live.client.post(f"/jobs/{newest}/cancel").status_code == 200
        self.ended = [succeeded, failed, cancelled]
        self.jobs = [self._submit(), *self.ended]
        ticket = live.client.post("/api/v3/media/uploads", json={"filename": "picture.png"}).json()["data"]
        self.files = [live.client.post("/v1/files", files={"content": ("a.png", FILE)}).json()["id"]]
        assert done.result is not None
        self.keys = [done.result.key, ticket["upload"]["url"].rsplit("/", 1)[1]]

    def _submit(self) -> str:
        submit = SUBMITS.get(self._dialect, SUBMITS["native"])
        body = submit.body(PICTURE)
        answer = self._live.client.post(submit.path, json=body)
        assert answer.is_success, answer.text
        found = answer.json().get("data") or answer.json()
        return str(body[0]["taskUUID"] if isinstance(body, list) else found.get("task_id") or found["id"])

    def put_into(self, values: Any, pick: int, names: dict[str, list[str]]) -> Any:
        """Real ones in the place of those that were made up."""
        if isinstance(values, list):
            return [self.put_into(each, pick, names) for each in values]
        if not isinstance(values, dict):
            return values
        return {
            name: names[name][pick % len(names[name])]
            if name in names and isinstance(value, str)
            else self.put_into(value, pick, names)
            for name, value in values.items()
        }


@pytest.mark.parametrize(("dialect", "label", "examples"), CALLS)
def test_answers_are_those_of_the_document(live_server: LiveServer, dialect: str, label: str, examples: int) -> None:
    from schemathesis import Case, GenerationMode, openapi
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    live = live_server(sync_wait_s=0.02, max_queue=MAX_QUEUE)
    things = Things(live, dialect)
    loaded = openapi.from_dict(live.client.get(f"/openapi/{dialect}.json").json())
    operation = next(each for each in (found.ok() for found in loaded.get_all_operations()) if each.label == label)
    modes = [GenerationMode.POSITIVE]
    if operation.body or operation.path_parameters or operation.query:  # else there is nothing to get wrong
        modes.append(GenerationMode.NEGATIVE)
    # The events of a job that has not ended have no end either.
    jobs = things.ended if label.endswith("/events") else things.jobs
    in_path = {"job_id": jobs, "prediction_id": jobs, "key": things.keys, "file_id": things.files}
    in_query = {"task_id": jobs}
    in_body = dict.fromkeys(("image", "img", "inputImage", "image_base64", "media", "data"), [PICTURE]) | dict.fromkeys(
        HOOKS, [NOBODY]
    )
    asked = {"taskUUID": jobs}
    # The web UI's calls wait for their jobs.
    with requests.Session() as session, live.worker.working() if dialect == "webui" else nullcontext():
        session.trust_env = False

        @settings(
            max_examples=examples if len(modes) > 1 else 1,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data(), st.sampled_from(modes), st.booleans(), st.integers(0, 3))
        def call(data: st.DataObject, mode: GenerationMode, real: bool, pick: int) -> None:
            case: Case = data.draw(operation.as_strategy(mode))
            if real:
                case.path_parameters = things.put_into(case.path_parameters, pick, in_path)
                case.query = things.put_into(case.query, pick, in_query)
                case.body = things.put_into(case.body, pick, in_body)
                if dialect == "native" and isinstance(case.body, dict) and case.media_type == "application/json":
                    rest = {name: value for name, value in case.body.items() if name not in EXCLUSIVE}
                    case.body = rest | {"image": PICTURE}
                if isinstance(case.body, list):
                    case.body = [
                        things.put_into(task, pick, asked)
                        if isinstance(task, dict) and task.get("taskType") == "getResponse"
                        else task
                        for task in case.body
                    ]
            answer = case.call(base_url=live.url, session=session, timeout=20)
            case.validate_response(answer, checks=wanted)

        call()


def test_the_older_addresses_have_the_functions_and_the_document_of_the_newer_ones() -> None:
    routes = get_openapi(title="all", version="1", routes=wavespeed.router.routes)["paths"]
    older, newer = ({path: routes[path] for path in routes if path.startswith(each)} for each in (OLDER, NEWER))
    # The name of its function is in each operation's id.
    moved = json.dumps(older).replace(OLDER, NEWER).replace("_api_v2_", "_api_v3_")
    assert older and json.loads(moved) == newer
    described = wavespeed.openapi.OPERATIONS
    assert all(described[label.replace(OLDER, NEWER)] is described[label] for label in described)


def test_every_route_is_in_a_document(config: MakeConfig) -> None:
    app = create_app(config())
    made = get_openapi(title="all", version="1", routes=app.routes)["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in made.items() for method in methods}
    own = {
        "GET /",
        "GET /docs",
        "GET /docs/{name}",
        "GET /web/{name}",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /openapi/{name}.json",
    }
    assert set(operations(document())) == routes - own
    assert sorted(label for _, label in OPERATIONS) == sorted(routes - own)


def operations(made: dict[str, Any]) -> Iterator[str]:
    return (f"{method.upper()} {path}" for path, methods in made["paths"].items() for method in methods)


def test_no_document_knows_of_what_no_one_gets(live: Live) -> None:
    whole = live.client.get("/openapi.json")
    assert whole.json()["openapi"] == "3.1.0"
    assert "HTTPValidationError" not in whole.text
    one = {label for each in DIALECTS for label in operations(live.client.get(f"/openapi/{each.NAME}.json").json())}
    assert one == set(operations(whole.json()))


def test_there_are_no_documents_of_other_apis(live: Live) -> None:
    answer = live.client.get("/openapi/other.json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
