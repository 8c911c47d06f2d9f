"""How this server runs: one frozen object, built once from `UPSCALE_*` variables and flags, handed down from the top.

Nothing else reads the environment. A value that does not fit, and a variable of a name we don't know, stop the start.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "UPSCALE_"
TEST_PREFIX = "UPSCALE_TEST_"  # the test suite's own switches

MIB = 1024 * 1024
LicencePolicy = Literal["any", "commercial"]
_Names = Annotated[tuple[str, ...], NoDecode]  # comma-separated in the environment, not JSON


class Config(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("upscale-server"),
        description="Jobs, pictures and installed weights.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs API keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_base_url: str | None = Field(
        None, description="Start of the links we hand out. Unset: taken from each request's Host header."
    )
    api_keys: _Names = Field(
        (),
        description="Keys for callers, comma-separated, beside those of `keys create`. None at all: loopback only.",
    )
    allow_hosts: _Names = Field(
        (),
        description="Private hosts that may be reached all the same: names, addresses or CIDRs, perhaps with `:port`.",
    )
    cors_origins: _Names = Field(
        (),
        description="Origins whose web pages may use the APIs: `https://app.example`, or `*` for all. None unless set.",
    )

    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the job table. Unset: SQLite in the data folder."
    )
    weights_dir: Path | None = Field(None, description="Installed checkpoints. Unset: `weights` in the data folder.")
    weights_mirror: str | None = Field(
        None, description="Where `weights pull` downloads from, by file name. Unset: each file's own source."
    )
    weights_proxy: str | None = Field(None, description="HTTP proxy for `weights pull`. Unset: none.")
    licence_policy: LicencePolicy = Field(
        "any", description="`commercial` refuses weights whose licence does not allow commercial use beyond doubt."
    )

    workers: int = Field(0, ge=0, le=64, description="Worker processes; 0 is one per GPU, or one on the CPU.")
    jobs_per_worker: int = Field(
        0, ge=0, le=32, description="Jobs that a worker has in hand at a time; 0 is 2 on the CPU and 4 on a GPU."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Network precision. auto: fp16 on CUDA; on the CPU fp32 with own kernels, else bf16 if it is fast.",
    )
    kernels: Literal["auto", "avx512", "avx2", "off"] = Field(
        "auto",
        description="Own CPU code, for networks in fp32 and for resizing, and its instruction set; auto: the best that "
        "the processor has. It is compiled on first use if it was not before.",
    )
    refiner: Literal["auto", "bundled", "sdxl"] = Field(
        "auto", description="What adds detail when creativity is asked for. auto: SDXL on CUDA if installed."
    )
    auto_limit_s: float = Field(
        60,
        ge=0,
        description="On a CPU, longest estimated job for which `auto` takes RealESRGAN_x4plus, not fidelity-x4.",
    )
    real_esrgan: Literal["always", "auto"] = Field(
        "always",
        description="On a CPU, what names Real-ESRGAN runs it: `always`, or like `auto` within UPSCALE_AUTO_LIMIT_S.",
    )
    tile: int = Field(
        0, ge=0, le=4096, description="Tile side in source pixels; 0 leaves it to the server, which may need none."
    )

    max_source_bytes: int = Field(100 * MIB, ge=1, description="Largest source file.")
    max_source_pixels: int = Field(100_000_000, ge=1, description="Largest source picture, width × height.")
    max_result_pixels: int = Field(400_000_000, ge=1, description="Largest result, width × height.")
    max_queue: int = Field(1000, ge=1, description="Jobs that may wait; more are refused with 429.")

    price_per_job: float = Field(0, ge=0, description="What answers state as a job's cost, in USD.")
    price_per_megapixel: float = Field(0, ge=0, description="Added to it, per million pixels of the result.")
    secret: SecretStr | None = Field(
        None, description="Webhook signatures derive from it. Unset: a file in the data folder, made at first use."
    )

    fetch_timeout_s: float = Field(30, gt=0, description="Time to fetch a source URL, redirects included.")
    sync_wait_s: float = Field(90, gt=0, description="How long a synchronous request waits for its result.")
    lease_s: float = Field(15, ge=1, description="A worker silent for so long is taken for dead.")
    keep_s: float = Field(7 * 86400, gt=0, description="How long finished jobs, results and uploads are kept.")
    keep_bytes: int = Field(0, ge=0, description="What pictures may take in all; the oldest go first. 0: no limit.")

    @field_validator("api_keys", "allow_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("public_base_url", "weights_mirror", "weights_proxy")
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite3'}"

    @property
    def blobs_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def cache_dir(self) -> Path:
        """What may be thrown away, and is computed again."""
        return self.data_dir / "cache"

    @property
    def weights_path(self) -> Path:
        return self.weights_dir or self.data_dir / "weights"


def largest_body(config: Config) -> int:
    """Bytes of a request's body: a picture in base64 takes four thirds of its own, other fields have room in the
    rest."""
    return config.max_source_bytes * 4 // 3 + MIB


class BadConfig(Exception):
    """A setting that stops the start; the text names it, its value and what would do."""


def load_config(**flags: Any) -> Config:
    """Flags win over the environment; a flag that is None was not given. Raises BadConfig."""
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
