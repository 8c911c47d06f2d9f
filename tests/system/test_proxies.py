"""The proxies of docs/operations.md, run as they stand: an upload of 100 MiB, events, a socket, a prefix."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from server.config import MIB
from tests.conftest import Live, LiveServer, Picture
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text("utf-8")
KEY = {"Authorization": "Bearer a-key"}


def documented(proxy: str) -> str:
    found = re.search(rf"^<!-- run: {proxy} -->\n```\w+\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Each must be there: what is run is what is documented, but for these."""
    for theirs, ours in pairs:
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For localhost; its key is beside it, as `.key`."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", names, "-keyout", str(folder / "here.key"), "-out", str(folder / "here.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder / "here.pem"


def nginx(live: Live, folder: Path, certificate: Path, port: int) -> list[str]:
    site = replaced(
        documented("nginx"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/pictures.pem", str(certificate)),
        ("/etc/ssl/pictures.key", str(certificate.with_suffix(".key"))),
        ("http://127.0.0.1:8000", live.url),
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder / 'pid'}; error_log stderr warn; worker_processes 1;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{site}}}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(live: Live, folder: Path, certificate: Path, port: int) -> list[str]:
    site = replaced(
        documented("caddy"),
        ("pictures.example {", f"https://localhost:{port} {{\n    tls {certificate} {certificate.with_suffix('.key')}"),
        ("127.0.0.1:8000", live.url.removeprefix("http://")),
    )
    options = f"{{\n    admin off\n    auto_https disable_redirects\n    storage file_system {folder / 'storage'}\n}}\n"
    (folder / "Caddyfile").write_text(options + site)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


PROXIES: dict[str, Callable[[Live, Path, Path, int], list[str]]] = {"nginx": nginx, "caddy": caddy}


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(folder)}
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(20)


class Front:
    """A server of ours, and the address under which a proxy has it."""

    def __init__(self, live: Live, base: str, tls: ssl.SSLContext) -> None:
        self.live = live
        self.base = base
        self.tls = tls
        self.client = httpx.Client(verify=tls, trust_env=False, timeout=60, headers=KEY)


@pytest.fixture(params=PROXIES)
def front(
    request: pytest.FixtureRequest, live_server: LiveServer, certificate: Path, tmp_path: Path
) -> Iterator[Front]:
    if not shutil.which(request.param, path="/usr/bin:/bin:/usr/sbin"):
        pytest.skip(f"there is no {request.param}")
    live, port = live_server(api_keys=("a-key",)), free_port()
    tmp_path.chmod(0o755)
    with running(PROXIES[request.param](live, tmp_path, certificate, port), tmp_path, port):
        made = Front(live, f"https://localhost:{port}/upscale", ssl.create_default_context(cafile=str(certificate)))
        with made.client:
            yield made


def test_links_lead_through_the_proxy_and_its_prefix(front: Front, picture: Picture) -> None:
    page = front.client.get(f"{front.base}/", headers={"Accept": "text/html"})
    assert "<title>upscale-server</title>" in page.text
    assert front.client.get(f"{front.base}/web/page.js").status_code == 200
    assert front.client.head(f"{front.base}/healthz").status_code == 200
    sent = front.client.post(f"{front.base}/jobs", files={"file": picture()}, data={"scale": "2"})
    assert sent.headers["location"] == f"{front.base}/jobs/{sent.json()['id']}"
    front.live.worker.finish()
    job = front.client.get(sent.headers["location"]).json()
    assert job["result"]["url"].startswith(f"{front.base}/files/")
    whole = front.client.get(job["result"]["url"])
    assert whole.headers["content-type"] == "image/png"
    part = front.client.get(job["urls"]["result"], headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, whole.content[:8])
    # The link that came through the proxy is a source again, asked for directly.
    again = front.live.client.post("/jobs", json={"image": job["result"]["url"]}, headers=KEY)
    assert again.status_code == 202
    assert front.live.worker.claim().source_url is None


def test_an_upload_of_100_mib_passes(front: Front) -> None:
    sent = front.client.post(f"{front.base}/api/v3/media/upload/binary", files={"file": ("a.png", bytes(100 * MIB))})
    assert sent.status_code == 200, sent.text
    url = sent.json()["data"]["download_url"]
    assert url.startswith(f"{front.base}/files/")
    assert front.client.head(url).headers["content-length"] == str(100 * MIB)
    ticket = front.client.post(f"{front.base}/api/v3/media/uploads", json={"filename": "a.png"}).json()["data"][
        "upload"
    ]
    assert front.client.put(ticket["url"], content=bytes(100 * MIB)).status_code == 200


def test_a_body_as_large_as_the_server_takes_reaches_it(front: Front) -> None:
    """In base64: what is no picture is then refused by the server, not by the proxy."""
    digits = "A" * (100 * MIB // 3 * 4)
    answer = front.client.post(f"{front.base}/jobs", content=f'{{"image": "{digits}"}}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreadable")


def test_events_come_while_the_job_waits(front: Front, picture: Picture) -> None:
    job = front.client.post(f"{front.base}/jobs", files={"file": picture()}, data={"scale": "2"}).json()
    with front.client.stream("GET", job["urls"]["events"]) as events:
        lines = events.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: progress"
        front.live.worker.finish()  # only now: the first event was not held back
        assert [line for line in lines if line.startswith("event:")][-1] == "event: done"


def test_a_socket_talks_through_the_proxy(front: Front) -> None:
    address = front.base.replace("https", "wss") + "/v1"
    with connect(address, proxy=None, ssl=front.tls) as opened:
        opened.send(json.dumps([{"taskType": "authentication", "apiKey": "a-key"}]))
        assert "connectionSessionUUID" in str(opened.recv(20))
        opened.send(json.dumps([{"taskType": "ping", "ping": True}]))
        assert "pong" in str(opened.recv(20))
