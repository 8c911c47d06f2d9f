"""The web UI's extras, field by field: what the client of test_sdk.py does not show."""

import base64
import io
import threading
from typing import Any

import httpx
import pytest
from PIL import Image, PngImagePlugin

from server.api.dialects import dialect_of
from server.api.dialects.webui import translate as webui
from server.api.dialects.webui.compose import compose
from server.errors import OutOfMemory
from server.job.job import Faces, Job, Params, State
from tests.conftest import Live, LiveServer, Picture, draw

SINGLE, BATCH = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"
INSTALLED = ["RealESRGAN_x4plus", "fidelity-x4"]
PICTURE = base64.b64encode(draw(40, 20)).decode()


def read(**body: Any) -> webui.Extras:
    return webui.read_extras(body, INSTALLED)


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.fixture(scope="module")
def live(shared: Live) -> Live:
    return shared


# --- requests -------------------------------------------------------------------------------------------------------


def test_an_absent_field_and_null_have_the_originals_default() -> None:
    assert read() == read(upscaler_1=None, upscaling_resize=None, upscaling_crop=None, resize_mode=None)
    assert read() == webui.Extras(2, None, False, webui.Layer("None", None, None), None, 0.0, None)
    assert read(resize_mode=1, upscaler_1="Lanczos").cut_to == (512, 512)


def test_names_are_aliases_of_the_installed_networks() -> None:
    assert webui.names_of(INSTALLED) == {
        "R-ESRGAN 4x+": "RealESRGAN_x4plus",
        "RealESRGAN_x4plus": "RealESRGAN_x4plus",
        "fidelity-x4": "fidelity-x4",
    }


def test_what_a_job_has_to_do() -> None:
    extras = read(upscaler_1="R-ESRGAN 4x+", upscaling_resize=3, gfpgan_visibility=0.4)
    layer = extras.first
    assert extras.params_of(layer, (10, 5)) == Params(scale=3, model="RealESRGAN_x4plus", faces=Faces(strength=0.4))
    sized = read(upscaler_1="fidelity-x4", resize_mode=1, upscaling_resize_w=30, upscaling_resize_h=30)
    assert sized.params_of(sized.first, (10, 5)) == Params(size=(60, 30), model="fidelity-x4")
    resized = read(upscaler_1="Lanczos", upscaling_resize=3)
    assert resized.params_of(resized.first, (10, 5)) == Params(scale=1)


@pytest.mark.parametrize(
    ("crop", "source", "target"),
    [
        (True, (10, 5), (40, 20)),
        (False, (10, 5), (30, 15)),
        (True, (5, 10), (30, 60)),
        (False, (5, 10), (10, 20)),
        (False, (4000, 1), (30, 1)),
    ],
)
def test_covering_and_fitting(crop: bool, source: tuple[int, int], target: tuple[int, int]) -> None:
    extras = read(resize_mode=1, upscaling_resize_w=30, upscaling_resize_h=20, upscaling_crop=crop)
    assert extras.target(source) == target


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"upscaler_1": "LDSR"}, "upscaler_1"),
        ({"upscaler_2": 5}, "upscaler_2"),
        ({"upscaler_1": ["Lanczos"]}, "upscaler_1"),
        ({"upscaler_1": {}}, "upscaler_1"),
        ({"upscaling_resize": 0}, "upscaling_resize"),
        ({"upscaling_resize": 10.5}, "upscaling_resize"),
        ({"upscaling_resize": "2"}, "upscaling_resize"),
        ({"upscaling_resize_w": 0}, "upscaling_resize_w"),
        ({"upscaling_resize_h": 1.5}, "upscaling_resize_h"),
        ({"resize_mode": 2}, "resize_mode"),
        ({"resize_mode": 0.5}, "resize_mode"),
        ({"gfpgan_visibility": 1.1}, "gfpgan_visibility"),
        ({"codeformer_visibility": 0.1}, "codeformer_visibility"),
        ({"extras_upscaler_2_visibility": -1}, "extras_upscaler_2_visibility"),
        ({"upscaling_crop": "yes"}, "upscaling_crop"),
        ({"image": None}, "image"),
        ({"image": 5}, "image"),
        ({"image": "AAAA"}, "image"),
        ({"image": "no picture!"}, "image"),
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility"),  # its weights are not installed
    ],
)
def test_a_wrong_field_is_named(live: Live, body: dict[str, Any], field: str) -> None:
    answer = live.client.post(SINGLE, json={"image": PICTURE} | body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["detail"]
    assert error["loc"] == ["body", field] and error["msg"]
    assert live.worker.jobs.counts() == {}


@pytest.mark.parametrize("entries", [None, [], [5], [{"name": "a"}], [{"data": PICTURE}] * 101, {"data": PICTURE}])
def test_a_wrong_batch_is_refused(live: Live, entries: Any) -> None:
    answer = live.client.post(BATCH, json={"imageList": entries})
    assert (answer.status_code, live.worker.jobs.counts()) == (422, {})


@pytest.mark.parametrize("data", ["AAAA", "no picture!", "http://10.0.0.1/a.png", "", None, 5])
def test_a_bad_picture_of_a_batch_is_named(live: Live, data: Any) -> None:
    body = {"imageList": [{"data": PICTURE, "name": "a"}, {"data": data, "name": "b"}]}
    answer = live.client.post(BATCH, json=body)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "imageList", 1, "data"])


def test_a_wrong_query_is_named_as_such(live: Live) -> None:
    answer = live.client.get("/sdapi/v1/progress?skip_current_image=perhaps")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "skip_current_image"])


def test_of_a_batch_with_a_bad_picture_nothing_runs(live: Live) -> None:
    before = live.worker.jobs.counts().get("cancelled", 0)
    body = {"imageList": [{"data": PICTURE, "name": "a"}, {"data": "AAAA", "name": "b"}]}
    assert live.client.post(BATCH, json=body).status_code == 422
    assert live.worker.jobs.counts() == {"cancelled": before + 1}


def test_a_result_over_the_limit_is_refused(live_server: LiveServer) -> None:
    live = live_server(max_result_pixels=1000)
    answer = live.client.post(SINGLE, json={"image": PICTURE, "upscaler_1": "Lanczos"})
    assert (answer.status_code, "limit of 1000 pixels" in answer.text) == (422, True)
    assert answer.json()["detail"][0]["loc"] == ["body", "upscaling_resize"]
    sized = {"resize_mode": 1, "upscaling_resize_w": 60, "upscaling_resize_h": 60}
    answer = live.client.post(SINGLE, json={"image": PICTURE, "upscaler_1": "Lanczos"} | sized)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "upscaling_resize_w"])


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_the_result_has_no_prefix(live: Live, head: str) -> None:
    with live.worker.working():
        answer = live.client.post(SINGLE, json={"image": head + PICTURE, "upscaler_1": "fidelity-x4"})
    assert opened(answer.json()["image"]).size == (80, 40)


def test_a_job_that_fails_is_told_with_its_reason(live: Live) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(live.client.post(SINGLE, json={"image": PICTURE, "upscaler_1": "fidelity-x4"}))

    thread = threading.Thread(target=ask)
    thread.start()
    live.worker.fail(OutOfMemory("it does not fit"))
    thread.join()
    assert (answers[0].status_code, answers[0].json()) == (
        507,
        {"error": "OutOfMemory", "detail": "it does not fit", "body": "", "errors": "it does not fit"},
    )


def test_a_full_queue(live_server: LiveServer) -> None:
    live = live_server(max_queue=1)
    assert live.client.post("/jobs", json={"image": PICTURE, "scale": 2}).is_success
    answer = live.client.post(SINGLE, json={"image": PICTURE, "upscaler_1": "fidelity-x4"})
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (429, "TooManyRequests", "5")


def test_faces_are_restored_where_they_can_be() -> None:
    assert read(gfpgan_visibility=1).faces == Faces(strength=1)
    assert read(gfpgan_visibility=0).faces is None


def test_progress_is_over_all_pictures_of_the_request() -> None:
    def job(state: State, progress: float) -> Job:
        return Job(dialect="webui", owner="ann", params=Params(scale=1), state=state, progress=progress, started_at=1.0)

    found = webui.to_progress([job(State.SUCCEEDED, 1.0), job(State.RUNNING, 0.5), job(State.QUEUED, 0.0)])
    assert (found["progress"], found["state"]["job_no"], found["state"]["job_count"]) == (0.5, 1, 3)
    assert found["eta_relative"] > 0, "by the progress until now"
    assert webui.to_progress([job(State.RUNNING, 0.5)], 12.3456)["eta_relative"] == 12.346
    assert webui.to_progress([])["progress"] == 0


def test_progress_is_the_callers_own(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    body = {"image": PICTURE, "upscaler_1": "fidelity-x4"}
    thread = threading.Thread(target=live.client.post, args=[SINGLE], kwargs={"json": body, "headers": ann})
    thread.start()
    job = live.worker.claim()
    counts = [live.client.get("/sdapi/v1/progress", headers=each).json()["state"]["job_count"] for each in (ann, bob)]
    assert live.client.post("/sdapi/v1/interrupt", headers=bob).json() == {}
    assert counts == [1, 0] and not live.worker.jobs.get(job.id).cancel_requested
    live.worker.finish(job)
    thread.join()


def test_an_info_without_texts_is_empty(live: Live) -> None:
    found = live.client.post("/sdapi/v1/png-info", json={"image": PICTURE})
    assert found.json() == {"info": "", "items": {}, "parameters": {}}
    assert live.client.post("/sdapi/v1/png-info", json={"image": "AAAA"}).status_code == 422


def test_texts_of_every_kind_are_read(live: Live) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a house", zip=True)
    texts.add_itxt("more", "größer", zip=True)
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG", pnginfo=texts)
    body = {"image": base64.b64encode(file.getvalue()).decode()}
    found = live.client.post("/sdapi/v1/png-info", json=body).json()
    assert found == {"info": "a house", "items": {"parameters": "a house", "more": "größer"}, "parameters": {}}


def test_addresses_that_do_not_exist_are_answered_in_its_words(live: Live) -> None:
    assert dialect_of("/sdapi/v1/x").NAME == dialect_of("/sdapi").NAME == "webui"
    answer = live.client.get("/sdapi/v1/loras")
    said = "there is nothing at this address"
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "NotFound", "detail": said, "body": "", "errors": said},
    )


@pytest.mark.parametrize("credentials", ["ann:a-key", ":a-key", "Änne:a-key"])
def test_any_user_name_with_the_key_as_password(live_server: LiveServer, credentials: str) -> None:
    live = live_server(api_keys=("a-key",))
    encoded = base64.b64encode(credentials.encode()).decode()
    assert live.client.get("/sdapi/v1/options", headers={"Authorization": f"Basic {encoded}"}).status_code == 200


@pytest.mark.parametrize("credentials", ["a-key:", "a-key", "ann:wrong", "ann:a-key:"])
def test_other_credentials_are_refused(live_server: LiveServer, credentials: str) -> None:
    live = live_server(api_keys=("a-key",))
    encoded = base64.b64encode(credentials.encode()).decode()
    for header in (f"Basic {encoded}", "Basic ???", "Basic"):
        answer = live.client.get("/sdapi/v1/options", headers={"Authorization": header})
        assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Basic ")


# --- composing ------------------------------------------------------------------------------------------------------


def test_the_centre_is_cut_out(picture: Picture) -> None:
    wide = Image.new("L", (40, 10), 0)
    wide.paste(255, (15, 0, 25, 10))
    file = io.BytesIO()
    wide.save(file, "PNG")
    made = Image.open(io.BytesIO(compose([(file.getvalue(), None)], (40, 10), 0.0, (10, 10))))
    assert made.size == (10, 10) and made.getextrema() == (255, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("kernel", ["lanczos3", "nearest"])
def test_a_picture_of_any_kind_is_resized_and_blended(mode: str, kernel: webui.Kernel) -> None:
    file = io.BytesIO()
    image = Image.new("I;16", (8, 6), 40_000) if mode == "I;16" else Image.new(mode, (8, 6), "#808080")
    image.save(file, "PNG")
    layers: list[tuple[bytes, webui.Kernel | None]] = [(file.getvalue(), kernel), (file.getvalue(), "lanczos3")]
    made = Image.open(io.BytesIO(compose(layers, (21, 17), 0.3, None)))
    assert (made.mode, made.size) == (mode, (21, 17))
    assert made.getpixel((10, 8)) == image.getpixel((4, 3))
