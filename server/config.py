"""The settings of this server: one frozen object, built once from `UPSCALE_*` variables and command-line options.

Nothing else reads the environment. An invalid value or an unknown variable stops the start.
"""

import os
import re
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

PREFIX = "UPSCALE_"
TEST_PREFIX = "UPSCALE_TEST_"  # options of the test suite

MIB = 1024 * 1024
BUCKET_URL = re.compile(r"(s3|gs|az)://[^/@:?#\s]+(/[^?#\s]*)?")
BUCKET_FORM = "must look like s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
LicencePolicy = Literal["any", "commercial"]
Role = Literal["all", "api", "worker"]
_Names = tuple[str, ...]  # comma-separated in the environment


class Config(BaseModel):
    """What is not given comes from the environment, where an empty variable counts as absent."""

    # pydantic-settings would do the same, but importing it takes as long as a short command takes in all.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("upscale-server"),
        description="Folder of the jobs, pictures and installed weights.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Any address but loopback needs API keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: a free port.")
    public_base_url: str | None = Field(
        None, description="Start of all links in responses. Unset: from each request's Host header."
    )
    api_keys: _Names = Field(
        (),
        description="API keys, comma-separated, in addition to those of `keys create`. Without any key: loopback only.",
    )
    allow_hosts: _Names = Field(
        (),
        description="Private hosts that the server may connect to: names, addresses or CIDRs, with or without `:port`.",
    )
    cors_origins: _Names = Field(
        (),
        description="Origins whose web pages may use the APIs: `https://app.example`, or `*` for all. Unset: none.",
    )

    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the database. Unset: SQLite in the data folder."
    )
    blob_url: str | None = Field(
        None,
        description="Bucket of the pictures: `s3://bucket/prefix`, `gs://…` or `az://…`. Unset: in the data folder.",
    )
    blob_endpoint: str | None = Field(
        None, description="URL of the bucket's server. Unset: the provider's own (Amazon, Google, Azure)."
    )
    blob_links: Literal["api", "direct"] = Field(
        "api",
        description="How callers get pictures of a bucket: through the API, or `direct`: the API redirects to it.",
    )
    ray_address: str | None = Field(
        None,
        description="`host:port` of a Ray cluster, whose GPUs compute tiles of large pictures too: docs/cluster.md; "
        "needs the extra cluster. Unset: none.",
    )
    weights_dir: Path | None = Field(None, description="Folder of installed weights. Unset: in the data folder.")
    weights_mirror: str | None = Field(
        None, description="URL that `weights pull` downloads from, by file name. Unset: each file's own source."
    )
    weights_proxy: str | None = Field(None, description="HTTP proxy for `weights pull`. Unset: none.")
    licence_policy: LicencePolicy = Field(
        "any", description="`commercial` refuses weights whose licence does not clearly allow commercial use."
    )

    role: Role = Field(
        "all", description="Which half of the server `serve` starts: `api`, `worker`, or `all` for both."
    )
    workers: int = Field(0, ge=0, le=64, description="Worker processes; 0: one per GPU, or one on the CPU.")
    jobs_per_worker: int = Field(
        0, ge=0, le=32, description="Jobs that a worker processes at a time; 0: 2 on the CPU, 4 on a GPU."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Network precision. auto: fp16 on CUDA; on the CPU fp32 with `kernels`, else bf16 if it is fast.",
    )
    kernels: Literal["auto", "avx512", "avx2", "triton", "off"] = Field(
        "auto",
        description="Instruction set of the server's own CPU kernels, for networks in fp32 and for resizing. auto: the "
        "best that the processor has. If they are not compiled yet, a worker does it while it works without them. "
        "triton: as auto, and on a GPU of compute capability 8.0 or newer the server's own GPU kernels for the "
        "networks, which have never run on a GPU yet.",
    )
    refiner: Literal["auto", "bundled", "sdxl"] = Field(
        "auto", description="Diffusion network for creativity above 0. auto: SDXL on CUDA if installed."
    )
    auto_limit_s: float = Field(
        60,
        ge=0,
        description="On a CPU, longest estimated job for which `auto` chooses RealESRGAN_x4plus, not fidelity-x4.",
    )
    real_esrgan: Literal["always", "auto"] = Field(
        "always",
        description="On a CPU, jobs that name Real-ESRGAN use it `always`, or with `auto` within UPSCALE_AUTO_LIMIT_S.",
    )
    tile: int = Field(
        0, ge=0, le=4096, description="Tile side in source pixels; 0: chosen by the server, which may use no tiles."
    )

    provenance: Literal["on", "off"] = Field(
        "on", description="Results state in XMP that software made them: docs/provenance.md. off: they state nothing."
    )

    c2pa_cert: Path | None = Field(
        None,
        description="PEM file of the certificate chain that signs results by C2PA; needs the extra c2pa.",
    )
    c2pa_key: Path | None = Field(None, validate_default=True, description="PEM file of its private key.")

    max_source_bytes: int = Field(100 * MIB, ge=1, description="Largest source file, in bytes.")
    max_source_pixels: int = Field(100_000_000, ge=1, description="Largest source picture, width × height in pixels.")
    max_result_pixels: int = Field(400_000_000, ge=1, description="Largest result, width × height in pixels.")
    max_queue: int = Field(1000, ge=1, description="Most queued jobs; more are refused with 429.")

    price_per_job: float = Field(0, ge=0, description="A job's cost in responses, in USD.")
    price_per_megapixel: float = Field(0, ge=0, description="Added to it, per million pixels of the result.")
    secret: SecretStr | None = Field(
        None, description="Webhook signing keys derive from it. Unset: a file in the data folder, made at first use."
    )

    fetch_timeout_s: float = Field(30, gt=0, description="Longest time to fetch a source URL, redirects included.")
    sync_wait_s: float = Field(90, gt=0, description="Longest time that a synchronous request waits for its result.")
    lease_s: float = Field(15, ge=1, description="A worker without a heartbeat for so long is considered dead.")
    keep_s: float = Field(7 * 86400, gt=0, description="How long finished jobs, results and uploads are kept.")
    keep_bytes: int = Field(
        0, ge=0, description="Most disk space of pictures; the oldest are deleted first. 0: no limit."
    )

    def __init__(self, **values: Any) -> None:
        """Raises ValidationError."""
        variables = {name: os.environ.get(PREFIX + name.upper()) for name in type(self).model_fields}
        super().__init__(**{name: text for name, text in variables.items() if text} | values)

    @field_validator("api_keys", "allow_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("blob_url")
    @classmethod
    def _names_a_bucket(cls, value: str | None) -> str | None:
        if value is not None and not BUCKET_URL.fullmatch(value):
            raise ValueError(BUCKET_FORM)
        return value

    @field_validator("ray_address")
    @classmethod
    def _names_a_host_and_a_port(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^/@:\s]+:\d{1,5}", value):
            raise ValueError("must look like host:6379, the address of Ray's head")
        return value

    @field_validator("public_base_url", "weights_mirror", "weights_proxy", "blob_endpoint")
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else value

    @field_validator("c2pa_key")
    @classmethod
    def _both_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("c2pa_cert") is None):
            raise ValueError("UPSCALE_C2PA_CERT and UPSCALE_C2PA_KEY go together")
        return value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite3'}"

    @property
    def blobs_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def cache_dir(self) -> Path:
        """Files that can be deleted, and are computed again."""
        return self.data_dir / "cache"

    def slots(self, device: str) -> int:
        """How many jobs a worker with a "cpu" or on "cuda" runs at a time."""
        return self.jobs_per_worker or (4 if device == "cuda" else 2)

    @property
    def weights_path(self) -> Path:
        return self.weights_dir or self.data_dir / "weights"


def largest_body(config: Config) -> int:
    """Most bytes of a request's body: a picture in base64 has 4/3 of its size; the rest is for other fields."""
    return config.max_source_bytes * 4 // 3 + MIB


def provider_variable(*names: str) -> str | None:
    """A variable of a cloud provider's own tools, such as AWS_REGION: the first of these that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


class BadConfig(Exception):
    """An invalid setting; the message has its name, its value and what is valid."""


def load_config(**flags: Any) -> Config:
    """`flags` take precedence over the environment; a flag that is None was not given. Raises BadConfig."""
    known = {PREFIX + name.upper() for name in Config.model_fields}
    unknown = sorted(n for n in os.environ if n.startswith(PREFIX) and not n.startswith(TEST_PREFIX) and n not in known)
    if unknown:
        raise BadConfig(f"unknown setting {unknown[0]}; the settings are {', '.join(sorted(known))}")
    try:
        return Config(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise BadConfig(f"{name}={first['input']!r}: {first['msg']}") from error
