"""A small, seeded share of tests/stress/fuzz.py, on a server without a worker process."""

from http.client import HTTPMessage

import pytest

from tests.conftest import LiveServer
from tests.stress.fuzz_files import damaged_files, digest_all, picture_files
from tests.stress.fuzz_requests import Line, complaint, send_all, send_frames, valid_requests
from tests.stress.mutate import Request

REQUESTS, FRAMES, FILES = 80, 60, 80


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # starlette's, of a form that was cut short
def test_damaged_requests_are_answered_in_their_dialects_words(live_server: LiveServer) -> None:
    live = live_server(sync_wait_s=0.02, fetch_timeout_s=1, max_queue=60, max_result_pixels=400_000)
    complaints = []
    with live.worker.working():
        for name, seeds in valid_requests(live.url).items():
            tally = send_all(int(live.url.rsplit(":", 1)[1]), seeds, REQUESTS, f"suite {name}")
            assert len(tally.seconds) == REQUESTS
            complaints += tally.complaints
    assert complaints == []


def test_a_handshake_that_fails_is_no_dialects_to_answer(live_server: LiveServer) -> None:
    live = live_server()
    line = Line(int(live.url.rsplit(":", 1)[1]))
    upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")]
    for method, path in (("GET", "/jobs"), ("OPTIONS", "/v3/async/task-result"), ("POST", "/v1")):
        request = Request(method, path, upgrade)
        answer = line.ask(request)
        assert answer is not None and answer[0] in (400, 405, 426)
        assert complaint(request, *answer) is None
        for others in (upgrade[:1], upgrade[1:], []):
            assert complaint(Request(method, path, others), answer[0], HTTPMessage(), answer[2])
    line.close()


def test_damaged_frames_end_no_conversation_with_an_error(live_server: LiveServer) -> None:
    live = live_server(sync_wait_s=0.02, fetch_timeout_s=1, max_queue=60, max_result_pixels=400_000)
    with live.worker.working():
        tally = send_frames(live.url, valid_requests(live.url)["runware"], FRAMES, "suite frames")
    assert tally.complaints == [] and tally.statuses["data"] > 0


def test_damaged_pictures_are_read_or_refused() -> None:
    found = digest_all(damaged_files(picture_files(), FILES, "suite files"))
    assert found.complaints == [] and found.outcomes.total() == FILES
    assert 0 < found.outcomes["read"] < FILES
