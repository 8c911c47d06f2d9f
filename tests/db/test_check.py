"""What `doctor` says of a PostgreSQL database."""

import re

import pytest

from server.db import check
from server.db.check import check_postgresql


@pytest.mark.slow
def test_version_latency_clock_and_schema_of_postgresql_are_said(postgres: str) -> None:
    said = check_postgresql(postgres)
    first, rest = said.split(", ", 1)
    assert re.match(r"PostgreSQL \d+\.\d+", first)
    assert re.fullmatch(r"answers in \d+\.\d ms, its clock is .*this machine's, schema \d{4}", rest), said


@pytest.mark.slow
def test_a_clock_that_differs_from_postgresqls_is_said(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = check.time.time
    monkeypatch.setattr(check.time, "time", lambda: real() - 60)
    assert re.search(r"its clock is (60\.0|59\.9)\d\d s ahead of this machine's", check_postgresql(postgres))


def test_a_postgresql_that_does_not_answer_is_a_problem_in_one_line() -> None:
    said = check_postgresql("postgresql://postgres@127.0.0.1:9/nowhere")
    assert said.startswith("PROBLEM: can't be reached: ") and "\n" not in said
