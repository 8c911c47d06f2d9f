"""pip `webuiapi`, unmodified, against our server: only its base URL is changed."""

import threading
import time

import pytest
from PIL import Image
from webuiapi import HiResUpscaler, Upscaler, WebUIApi

from server.job.job import State
from tests.conftest import Live, LiveServer

ALIAS = Upscaler.ESRGAN_4x


@pytest.fixture
def server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    return live_server(api_keys=("a-key",))


@pytest.fixture
def api(server: Live) -> WebUIApi:
    return WebUIApi(baseurl=f"{server.url}/sdapi/v1", username="anyone", password="a-key")


@pytest.fixture
def photo() -> Image.Image:
    return Image.linear_gradient("L").resize((40, 20)).convert("RGB")


def test_a_single_picture(server: Live, api: WebUIApi, photo: Image.Image) -> None:
    with server.worker.working():
        done = api.extra_single_image(photo, upscaler_1=ALIAS, upscaling_resize=4)
    assert (done.image.format, done.image.size) == ("PNG", (160, 80))
    assert done.info == "<p>R-ESRGAN 4x+: 160 × 80</p>"
    assert server.worker.jobs.list()[0][0].params.model == "RealESRGAN_x4plus"


def test_a_batch_keeps_its_order(server: Live, api: WebUIApi) -> None:
    pictures = [Image.new("RGB", (8 + each, 8)) for each in range(4)]
    with server.worker.working():
        done = api.extra_batch_images(pictures, upscaler_1="fidelity-x4", upscaling_resize=2)
    assert [each.size for each in done.images] == [(16 + 2 * each, 16) for each in range(4)]


@pytest.mark.parametrize(("crop", "size"), [(True, (64, 48)), (False, (64, 32))])
def test_a_size(server: Live, api: WebUIApi, photo: Image.Image, crop: bool, size: tuple[int, int]) -> None:
    with server.worker.working():
        done = api.extra_single_image(
            photo,
            resize_mode=1,
            upscaling_resize_w=64,
            upscaling_resize_h=48,
            upscaling_crop=crop,
            upscaler_1=ALIAS,
        )
    assert done.image.size == size


def test_two_upscalers_are_blended(server: Live, api: WebUIApi, photo: Image.Image) -> None:
    with server.worker.working():
        one, both = (
            api.extra_single_image(
                photo, upscaler_1="Nearest", upscaler_2="Lanczos", extras_upscaler_2_visibility=share
            ).image
            for share in (0, 0.5)
        )
        two = api.extra_single_image(photo, upscaler_1="Lanczos").image
    assert one.size == two.size == both.size == (80, 40)
    assert one.tobytes() != two.tobytes()
    mean = Image.blend(one, two, 0.5)
    worst = max(abs(a - b) for a, b in zip(mean.tobytes(), both.tobytes(), strict=True))
    assert worst <= 1


def test_without_an_upscaler_the_picture_is_unchanged(server: Live, api: WebUIApi, photo: Image.Image) -> None:
    with server.worker.working():
        done = api.extra_single_image(photo)
    assert done.image.size == photo.size


def test_upscalers(api: WebUIApi) -> None:
    found = {each["name"]: each for each in api.get_upscalers()}
    assert list(found)[:4] == ["None", "Lanczos", "Nearest", ALIAS.value]
    assert {HiResUpscaler.ESRGAN_4x.value, "R-ESRGAN 4x+ Anime6B", "fidelity-x4"} <= set(found)
    assert (found[ALIAS.value]["model_name"], found[ALIAS.value]["scale"]) == ("RealESRGAN_x4plus", 4)
    assert all(each["model_path"] is None for each in found.values())


def test_progress_and_interrupt(server: Live, api: WebUIApi, photo: Image.Image) -> None:
    assert api.get_progress()["state"]["job_count"] == 0
    errors: list[Exception] = []

    def run() -> None:
        try:
            api.extra_single_image(photo, upscaler_1=ALIAS)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    job = server.worker.claim()
    server.worker.jobs.heartbeat(job, 0.25, "upscaling")
    found = api.get_progress()
    assert (found["progress"], found["state"]["job_count"], found["state"]["sampling_step"]) == (0.25, 1, 25)
    assert found["eta_relative"] >= 0
    assert api.interrupt() == {}
    assert server.worker.jobs.get(job.id).cancel_requested
    server.worker.jobs.cancelled(job)
    thread.join()
    assert errors[0].args[0] == 409 and "interrupted" in errors[0].args[1]
    assert api.get_progress()["progress"] == 0


def test_a_cancelled_request_cancels_its_job(server: Live, api: WebUIApi, photo: Image.Image) -> None:
    send = api.session.send
    api.session.send = lambda request, **options: send(request, **options | {"timeout": 0.3})  # type: ignore[method-assign]
    with pytest.raises(OSError, match="[Tt]imed out"):
        api.extra_single_image(photo, upscaler_1=ALIAS)
    deadline = time.monotonic() + 20
    while [each.state for each in server.worker.jobs.list()[0]] != [State.CANCELLED]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_wrong_password(server: Live, photo: Image.Image) -> None:
    api = WebUIApi(baseurl=f"{server.url}/sdapi/v1", username="anyone", password="wrong")
    with pytest.raises(RuntimeError) as raised:
        api.extra_single_image(photo, upscaler_1=ALIAS)
    assert raised.value.args[0] == 401 and "Incorrect username or password" in raised.value.args[1]


def test_what_it_probes_at_its_start(api: WebUIApi) -> None:
    assert (api.has_controlnet, api.has_adetailer) == (False, False)
    assert api.get_options()["samples_format"] == "png"
    assert api.get_face_restorers() == api.get_sd_models() == api.get_samplers() == []
    assert api.get_cmd_flags()["api"] is True


def test_png_info(api: WebUIApi, photo: Image.Image) -> None:
    photo.info["parameters"] = "a house\nSteps: 20"
    found = api.png_info(photo)
    assert found.info == "a house\nSteps: 20"
    assert found.json["items"] == {"parameters": "a house\nSteps: 20"}


def test_making_pictures_is_refused_in_words(api: WebUIApi) -> None:
    with pytest.raises(RuntimeError) as raised:
        api.txt2img(prompt="a house")
    assert raised.value.args[0] == 404 and "this server upscales" in raised.value.args[1]
