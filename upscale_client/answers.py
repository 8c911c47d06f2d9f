"""The server's answers. Fields that a newer server adds are in `raw`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upscale_client.errors import BY_CODE, JobCancelled, JobFailed, UpscaleError

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Result:
    """The picture of a job that succeeded."""

    url: str
    """Needs no key: give it only to those who may see the picture."""
    width: int
    height: int
    size_bytes: int
    format: str
    model: str
    """The network that ran, or the networks with their shares."""
    notes: tuple[str, ...]
    """Sentences about what the caller may not expect, such as another network than usual."""
    raw: dict[str, Any]


@dataclass(frozen=True)
class Job:
    id: str
    state: str
    """queued, running, succeeded, failed or cancelled."""
    progress: float
    """0 … 1; it never falls."""
    stage: str | None
    """What a running job is doing: loading, upscaling, refining or encoding; else None."""
    eta_s: float | None
    """About how many seconds are left until it ends; None once it has, and while too little is known."""
    eta_max_s: float | None
    """It ends before that in 95 of 100 cases, by the errors until now on that machine."""
    result: Result | None
    raw: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def error(self) -> UpscaleError | None:
        """Why the job has no result, of the class that belongs to its code; None unless it failed or was cancelled."""
        if self.state == "cancelled":
            return JobCancelled(f"job {self.id} was cancelled", code="cancelled", job=self)
        if self.state != "failed":
            return None
        found = self.raw["error"]
        return BY_CODE.get(found["code"], JobFailed)(found["message"], code=found["code"], job=self)


@dataclass(frozen=True)
class Plan:
    """What a job would do."""

    source: tuple[int, int]
    """Width and height, as all sizes here."""
    result: tuple[int, int]
    model: str
    notes: tuple[str, ...]
    seconds: float | None
    """Estimated for this server; None if it has not measured its speed yet."""
    raw: dict[str, Any]


@dataclass(frozen=True)
class Model:
    name: str
    scale: int
    licence: str
    note: str
    raw: dict[str, Any]


@dataclass(frozen=True)
class Models:
    networks: tuple[Model, ...]
    """Those that a job can name, best first."""
    faces: bool
    """Whether faces can be restored."""
    why_no_faces: str | None
    raw: dict[str, Any]


def read_job(raw: dict[str, Any]) -> Job:
    result = raw["result"]
    return Job(
        id=raw["id"],
        state=raw["state"],
        progress=raw["progress"],
        stage=raw["stage"],
        eta_s=raw.get("eta_s"),  # servers of before do not say
        eta_max_s=raw.get("eta_max_s"),
        result=result and _read_result(result),
        raw=raw,
    )


def _read_result(raw: dict[str, Any]) -> Result:
    size = (raw["width"], raw["height"], raw["size_bytes"])
    return Result(raw["url"], *size, raw["format"], raw["model"], tuple(raw["notes"]), raw)


def read_plan(raw: dict[str, Any]) -> Plan:
    (width, height), (wide, high) = raw["source"], raw["result"]
    notes, seconds = tuple(raw["notes"]), raw["estimate"]["seconds"]
    return Plan((width, height), (wide, high), raw["model"], notes, seconds, raw)


def read_models(raw: dict[str, Any]) -> Models:
    networks = (Model(each["name"], each["scale"], each["licence"], each["note"], each) for each in raw["models"])
    return Models(tuple(networks), raw["faces"]["available"], raw["faces"]["reason"], raw)
