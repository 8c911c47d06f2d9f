"""What the metrics ask the job table for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.job.job import State


@dataclass(frozen=True)
class Ended:
    """What the metrics need of a job that has ended."""

    id: str
    dialect: str
    state: str
    error_code: str | None
    attempt: int
    created_at: float
    finished_at: float
    result: Mapping[str, Any] | None
    """As `Result.to_dict` returns it."""


@dataclass(frozen=True)
class Backlog:
    """Jobs of one dialect and state that have not ended."""

    dialect: str
    state: State
    jobs: int
    oldest_at: float
    """When the oldest was submitted."""
