"""OpenTelemetry, which FastAPI brings: sent where an operator says, and nowhere unless one does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Receiver, Served

Start = Callable[..., Served]


@pytest.fixture
def receiver_settings(receiver: Receiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_SERVICE_NAME": "upscale-test",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


def asked(path: Path, settings: dict[str, str]) -> int:
    """A real server is asked for its health, with a name that would show; its status at the end."""
    server = Served(path / "data", **settings)
    server.start()
    assert server.get("/healthz?mark=27182818").status_code == 200
    return server.stop()


@pytest.mark.slow
def test_spans_go_to_the_collector_that_is_named(
    tmp_path: Path, receiver: Receiver, receiver_settings: dict[str, str]
) -> None:
    assert asked(tmp_path, receiver_settings | {"FASTAPI_OTEL_AUTO_CONFIGURE": "true"}) == 0
    receiver.wait(1)
    spans = b"".join(each.body for each in receiver.got if each.path == "/v1/traces")
    assert b"/healthz" in spans and b"upscale-test" in spans


@pytest.mark.slow
def test_nothing_is_sent_unless_it_is_switched_on(
    tmp_path: Path, receiver: Receiver, receiver_settings: dict[str, str]
) -> None:
    assert asked(tmp_path, receiver_settings) == 0
    assert receiver.got == []
