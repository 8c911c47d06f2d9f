"""Whatever a key makes, another key finds nothing there: every route of every API is asked for it."""

import base64
import json
import uuid
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from server.api.dialects.replicate.models import REAL_ESRGAN_MODEL
from server.api.dialects.replicate.translate import COLLECTION
from server.api.dialects.webui.translate import GENERATES
from server.api.openapi.document import document
from tests.api.dialects.mcp.test_messages import BOTH, OPENING, tool_call, tool_headers
from tests.api.dialects.submits import SUBMITS
from tests.conftest import Live, LiveServer, draw

PICTURE = base64.b64encode(draw(16, 8)).decode()
ANN, BOB = {"Authorization": "Bearer ann"}, {"Authorization": "Bearer bob"}

CAPABILITIES = {
    "GET /files/{key}",
    "HEAD /files/{key}",
    "GET /files/{key}/preview",
    "POST /zip",
    "PUT /uploads/{key}",
}
"""Their addresses are the permission and are sent only to the owner: the other key never gets them."""
WITHOUT_NAMES: dict[str, Any] = {
    "GET /jobs": None,
    "GET /models": None,
    "POST /jobs": {"image": PICTURE, "scale": 2},
    "POST /plan": {"width": 8, "height": 8},
    "POST /v3/async/image-upscaler": {"image": PICTURE, "resolution": "2k"},
    "POST /v3/async/upscale": {
        "request": {"model_name": "RealESRNet_x4plus", "image_base64": PICTURE, "scale_factor": 2}
    },
    "POST /api/v1/models/{model}/generate": {"image": PICTURE, "target_resolution": "2k", "output_format": "png"},
    "POST /v1/predictions": {"version": "nightmareai/real-esrgan", "input": {"image": PICTURE}},
    "POST /v1/models/{owner}/{name}/predictions": {"input": {"image": PICTURE}},
    "POST /v1/files": {},
    "POST /uploads": {},
    "POST /mcp": tool_call("jobs"),
    "POST /sdapi/v1/extra-single-image": {},  # refused: without a worker the answer to another would never come
    "POST /sdapi/v1/extra-batch-images": {},
    "POST /sdapi/v1/interrupt": None,
    "POST /sdapi/v1/png-info": {"image": PICTURE},
}
WITHOUT_NAMES |= dict.fromkeys(
    (
        "GET /v1/predictions",
        "GET /v1/models",
        "GET /v1/models/{owner}/{name}",
        "GET /v1/models/{owner}/{name}/versions",
        "GET /v1/models/{owner}/{name}/versions/{version_id}",
        "GET /v1/collections",
        "GET /v1/collections/{slug}",
        "GET /v1/files",
        "GET /v1/account",
        "GET /v1/webhooks/default/secret",
        "GET /v1/hardware",
        "GET /sdapi/v1/upscalers",
        "GET /sdapi/v1/face-restorers",
        "GET /sdapi/v1/progress",
        "GET /sdapi/v1/options",
        "GET /sdapi/v1/cmd-flags",
        "GET /sdapi/v1/scripts",
        "GET /sdapi/v1/sd-models",
        "GET /sdapi/v1/samplers",
    )
)
NOT_DONE = {f"POST /sdapi/v1/{name}" for name in GENERATES}
"""They answer 404 with words to everybody."""

for _version in ("v2", "v3"):
    WITHOUT_NAMES |= {
        f"GET /api/{_version}/predictions": None,
        f"POST /api/{_version}/predictions": {"include_inputs": True},
        f"POST /api/{_version}/media/uploads": {"filename": "a.png"},
        f"POST /api/{_version}/media/upload/binary": {},
        f"POST /api/{_version}/upload": {},
        f"GET /api/{_version}/webhook/secret": None,
        f"GET /api/{_version}/balance": None,
        f"GET /api/{_version}/account/balance": None,
        f"GET /api/{_version}/account/usage": None,
        f"GET /api/{_version}/models": None,
        f"POST /api/{_version}/model/price": {"model_id": "wavespeed-ai/real-esrgan"},
        f"POST /api/{_version}/model/pricing": {"model_id": "wavespeed-ai/real-esrgan"},
        f"POST /api/{_version}/{{owner}}/{{name}}": {"image": PICTURE, "scale": 2},
    }
"""Routes without ids, with a body for them: their answers must contain nothing of the other key's."""

HEADERS = {"POST /mcp": tool_headers("jobs")}

PATHS = {"owner": "wavespeed-ai", "name": "real-esrgan", "model": "image-upscaler"}
PATHS_BELOW_V1 = {
    "owner": REAL_ESRGAN_MODEL.owner,
    "name": REAL_ESRGAN_MODEL.name,
    "version_id": REAL_ESRGAN_MODEL.versions[0],
    "slug": COLLECTION["slug"],
}


class Anns:
    """One of everything that a key can have: jobs through every API, queued and done, and an upload."""

    def __init__(self, live: Live) -> None:
        self.client = live.client
        self.tasks: list[str] = []
        for number in range(2):
            for submit in SUBMITS.values():
                body = submit.body(PICTURE)
                self.ask("POST", submit.path, body)
                self.tasks += [task["taskUUID"] for task in body if isinstance(body, list)]
            for _ in SUBMITS if number == 0 else ():
                live.worker.finish()
        upload = {"taskType": "imageUpload", "taskUUID": str(uuid.uuid4()), "image": PICTURE}
        self.upload = self.ask("POST", "/v1", [upload]).json()["data"][0]["imageUUID"]
        parts = {"content": ("a.png", draw(16, 8))}
        self.file = live.client.post("/v1/files", files=parts, headers=ANN).json()["id"]
        opening = live.client.post("/mcp", json=OPENING, headers=ANN | BOTH)
        self.session = opening.headers["Mcp-Session-Id"]
        self.jobs = live.worker.jobs.list()[0]
        assert len(self.jobs) == 2 * len(SUBMITS)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        answer = self.client.request(method, path, json=body, headers=ANN)
        assert answer.is_success, answer.text
        return answer

    def names(self) -> list[str]:
        """Everything by which one of her things could be asked for, in every spelling."""
        found = [self.upload, self.file]
        for job in self.jobs:
            found += [job.id, str(uuid.UUID(job.id)), job.source_id, str(uuid.UUID(job.source_id)), job.result_id]
        return [*found, *(job.result.key for job in self.jobs if job.result), *self.tasks]


def operations() -> list[str]:
    paths = document()["paths"]
    return sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


@pytest.fixture
def live_with_keys(live_server: LiveServer) -> Live:
    return live_server(api_keys=("ann", "bob"), sync_wait_s=0.05)


def test_no_route_gives_another_keys_things_away(live_with_keys: Live) -> None:
    live = live_with_keys
    anns = Anns(live)
    walked = set()
    for operation in operations():
        method, path = operation.split(" ")
        if operation in CAPABILITIES | NOT_DONE:
            continue
        walked.add(operation)
        if operation in WITHOUT_NAMES:
            answer = live.client.request(
                method,
                path.format(**(PATHS_BELOW_V1 if path.startswith("/v1/") else PATHS)),
                json=WITHOUT_NAMES[operation],
                headers=BOB | HEADERS.get(operation, {}),
            )
            assert answer.status_code not in (401, 403, 404, 405), operation
            assert_silent(answer, anns, operation)
        elif operation == "POST /v1":
            for name in (*anns.tasks, *(str(uuid.UUID(job.id)) for job in anns.jobs)):
                answer = live.client.post("/v1", json=[{"taskType": "getResponse", "taskUUID": name}], headers=BOB)
                assert answer.status_code == 404
            for name in (anns.upload, *(str(uuid.UUID(each)) for job in anns.jobs for each in (job.source_id,))):
                task = {"taskType": "imageUpscale", "taskUUID": str(uuid.uuid4()), "upscaleFactor": 2}
                answer = live.client.post("/v1", json=[task | {"inputImage": name}], headers=BOB)
                assert answer.status_code == 400 and "There is no picture" in answer.text
        elif operation == "DELETE /mcp":
            for name in (anns.session, *anns.names()):
                answer = live.client.delete(path, headers=BOB | {"Mcp-Session-Id": name})
                assert answer.status_code == 404
        elif path.endswith("/predictions/delete"):
            answer = live.client.post(path, json={"ids": anns.names()}, headers=BOB)
            assert answer.json()["data"] == {"deleted_count": 0}
        elif path.endswith("/task-result"):
            for name in anns.names():
                answer = live.client.get(path, params={"task_id": name}, headers=BOB)
                assert (answer.status_code, answer.json()["reason"]) == (404, "TASK_NOT_FOUND")
        else:
            (parameter,) = [name for name in ("job_id", "prediction_id", "file_id") if f"{{{name}}}" in path]
            for name in anns.names():
                answer = live.client.request(method, path.format(**{parameter: name}), headers=BOB)
                assert answer.status_code == 404, f"{operation} of {name}"
                assert "outputs" not in answer.text
    assert walked == set(operations()) - CAPABILITIES - NOT_DONE
    assert [live.worker.jobs.get(job.id) for job in anns.jobs] == list(anns.jobs), "nor changes them"


def assert_silent(answer: httpx.Response, anns: Anns, operation: str) -> None:
    for name in anns.names():
        assert name not in answer.text, f"{operation} tells of {name}"


def test_no_tool_gives_another_keys_things_away(live_with_keys: Live) -> None:
    live, anns = live_with_keys, Anns(live_with_keys)
    for name in anns.names():
        body = tool_call("jobs", id=name, cancel=True)
        for key, found in (ANN, name in {job.id for job in anns.jobs}), (BOB, False):
            answer = live.client.post("/mcp", json=body, headers=key | tool_headers("jobs")).json()["result"]
            text = answer["content"][0]["text"]
            assert found == ("there is no job" not in text), text
            assert "url" not in text
    assert live.client.post("/mcp", json=tool_call("jobs"), headers=BOB | tool_headers("jobs")).json()["result"][
        "structuredContent"
    ] == {"jobs": [], "total": 0}


def test_what_belongs_to_a_key_is_there_for_that_key(live_with_keys: Live) -> None:
    """Else the test above would pass on a server that has nothing."""
    anns = Anns(live_with_keys)
    for job in anns.jobs:
        assert anns.ask("GET", f"/jobs/{job.id}").json()["id"] == job.id
        path = {
            "wavespeed": "/api/v3/predictions/{}",
            "vibedream": "/api/v1/predictions/{}",
            "novita": "/v3/async/task-result?task_id={}",
            "replicate": "/v1/predictions/{}",
        }
        if job.dialect in path:
            anns.ask("GET", path[job.dialect].format(job.id))
    assert json.loads(anns.ask("GET", "/jobs").text)["total"] == len(anns.jobs)
    assert anns.ask("GET", "/api/v3/account/usage").json()["data"] == {"total_requests": 2}


def test_a_file_is_there_for_its_key(live_with_keys: Live) -> None:
    anns = Anns(live_with_keys)
    assert anns.ask("GET", f"/v1/files/{anns.file}").json()["id"] == anns.file


def test_webhook_secrets_are_each_keys_own(live_with_keys: Live) -> None:
    secrets = [
        live_with_keys.client.get("/api/v3/webhook/secret", headers=each).json()["secret"] for each in (ANN, BOB)
    ]
    assert len(set(secrets)) == 2


def test_over_a_socket_nothing_of_another_keys_is_found_either(live_with_keys: Live) -> None:
    anns = Anns(live_with_keys)
    with connect(live_with_keys.url.replace("http", "ws") + "/v1", proxy=None) as line:

        def ask(task: dict[str, Any]) -> Any:
            line.send(json.dumps([task]))
            return json.loads(line.recv(timeout=10))

        assert "data" in ask({"taskType": "authentication", "apiKey": "bob"})
        for name in (*anns.tasks, *(str(uuid.UUID(job.id)) for job in anns.jobs)):
            assert ask({"taskType": "getResponse", "taskUUID": name})["errors"][0]["message"] == "Task not found"
