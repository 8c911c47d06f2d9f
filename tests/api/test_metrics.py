"""What Prometheus gets: its own parser reads it."""

import base64
import json
import re
import time
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from server.api.metrics import _GPU_METRICS, Metrics
from server.config import MIB
from server.db.database import open_database
from server.db.deliveries import WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs, WorkerInfo
from server.db.keys import Keys
from server.db.limits import Limits
from server.errors import SourceUnreadable
from server.job.job import Job, Params, Result, State
from tests.conftest import Live, LiveServer, MakeConfig, draw
from tests.paths import ROOT

Samples = dict[tuple[str, frozenset[str]], float]


def samples(text: str) -> Samples:
    """By name and the values of the labels."""
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.values())): each.value for family in families for each in family.samples}


def value(text: str, name: str, *labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels)))


@pytest.fixture
def database(config: MakeConfig) -> Engine:
    return open_database(config().database)


@pytest.fixture
def table(database: Engine) -> Jobs:
    return Jobs(database, lease_s=60)


@pytest.fixture
def pending(database: Engine) -> Deliveries:
    return Deliveries(database)


def add(table: Jobs, **values: Any) -> Job:
    common: dict[str, Any] = {"dialect": "native", "owner": "local", "source_key": "0" * 32}
    job = Job(params=Params(scale=2), **common | values)
    table.enqueue(job)
    return job


def end(table: Jobs, **values: Any) -> None:
    job = table.claim("worker")
    assert job is not None
    result = Result(
        key="0" * 32, width=8, height=8, size_bytes=1, format="png", model_sha256=None, **{"model": "one"} | values
    )
    assert table.finish(job, result)


def test_a_server_that_has_done_nothing_says_so(table: Jobs, pending: Deliveries) -> None:
    text = Metrics(table, pending).text().decode()
    assert value(text, "upscale_queue_age_seconds") == 0
    assert not [name for name, _ in samples(text) if name.startswith(("upscale_jobs_ended", "upscale_stage"))]


def test_the_backlog_is_reported_by_dialect_and_state(table: Jobs, pending: Deliveries) -> None:
    add(table, created_at=time.time() - 100)
    add(table, dialect="novita", created_at=time.time() - 50)
    add(table, created_at=time.time() - 10)
    assert table.claim("worker") is not None
    text = Metrics(table, pending).text().decode()
    assert value(text, "upscale_jobs", "native", "running") == 1
    assert value(text, "upscale_jobs", "native", "queued") == value(text, "upscale_jobs", "novita", "queued") == 1
    age = value(text, "upscale_queue_age_seconds")
    assert age is not None and 50 <= age < 60


def test_every_end_is_counted_once(table: Jobs, pending: Deliveries) -> None:
    add(table)
    end(table)  # before the process began
    metrics = Metrics(table, pending)
    for _ in range(3):
        add(table)
        end(table, network_pixels=1000, seconds={"decode": 0.02, "upscale": 2.0}, model="one 0.25 + two 0.75")
        metrics.count()
    add(table)
    job = table.claim("worker")
    assert job is not None and table.fail(job, SourceUnreadable("it is broken"))
    add(table, dialect="novita", state=State.CANCELLED, finished_at=time.time())
    for text in (metrics.text().decode(), metrics.text().decode()):
        assert value(text, "upscale_jobs_ended_total", "native", "succeeded", "") == 3
        assert value(text, "upscale_jobs_ended_total", "native", "failed", "source_unreadable") == 1
        assert value(text, "upscale_jobs_ended_total", "novita", "cancelled", "") == 1
        assert value(text, "upscale_stage_seconds_sum", "upscale") == 6
        assert value(text, "upscale_stage_seconds_count", "decode") == 3
        assert value(text, "upscale_job_seconds_count", "native") == 3
        assert value(text, "upscale_network_pixels_total", "one") == 3000


def test_an_end_that_is_written_late_is_counted(table: Jobs, pending: Deliveries) -> None:
    metrics = Metrics(table, pending)
    add(table)
    end(table)
    metrics.count()
    now = time.time()
    add(table, state=State.FAILED, finished_at=now)
    metrics.count()
    add(table, state=State.FAILED, finished_at=now - 0.001)
    assert value(metrics.text().decode(), "upscale_jobs_ended_total", "native", "failed", "") == 2


def test_attempts_that_workers_died_in_are_counted(table: Jobs, config: MakeConfig, pending: Deliveries) -> None:
    metrics = Metrics(table, pending)
    add(table)
    assert table.claim("dies") is not None
    table.release("dies")
    end(table)
    assert value(metrics.text().decode(), "upscale_jobs_repeated_total") == 1


def test_workers_are_reported_by_kind_as_long_as_they_are_heard_of(table: Jobs, pending: Deliveries) -> None:
    table.worker_beat(WorkerInfo("a", "device", True, "cpu"))
    table.worker_beat(WorkerInfo("b", "device", True, "cuda"))
    Jobs(table._engine, lease_s=-1).worker_beat(WorkerInfo("silent", "device", True, "cuda"))
    text = Metrics(table, pending).text().decode()
    assert value(text, "upscale_workers", "cpu", "true") == value(text, "upscale_workers", "cuda", "true") == 1


def beat(table: Jobs, name: str, **counters: float) -> None:
    table.worker_beat(WorkerInfo(name, "device", True, counters=counters))


def test_what_workers_count_is_added_up_over_their_lives(table: Jobs, pending: Deliveries) -> None:
    beat(table, "old", tiles=1000)
    metrics = Metrics(table, pending)
    metrics.count()  # what was before is none of this process's own
    beat(table, "old", tiles=1010, oom_retries=1)
    beat(table, "new", tiles=5)
    metrics.count()
    beat(table, "new", tiles=7)
    table.release("old")
    beat(table, "newest", tiles=1)
    for text in (metrics.text().decode(), metrics.text().decode()):
        assert value(text, "upscale_worker_events_total", "tiles") == 10 + 7 + 1
        assert value(text, "upscale_worker_events_total", "oom_retries") == 1


def test_what_workers_measure_is_reported_of_each(table: Jobs, pending: Deliveries) -> None:
    beat(table, "a", device_bytes=100, tiles=3, graphs=2)
    beat(table, "b", device_bytes=200)
    text = Metrics(table, pending).text().decode()
    assert value(text, "upscale_worker_bytes", "a", "device") == 100
    assert value(text, "upscale_worker_bytes", "b", "device") == 200
    assert value(text, "upscale_worker_items", "a", "graphs") == 2
    for name in ("device_bytes", "graphs"):
        assert value(text, "upscale_worker_events_total", name) is None


def test_results_are_counted_by_network_and_format(table: Jobs, pending: Deliveries) -> None:
    metrics = Metrics(table, pending)
    for model in ("one", "one 0.25 + two 0.75"):
        add(table)
        end(table, model=model)
    assert value(metrics.text().decode(), "upscale_results_total", "one", "png") == 2


def test_what_is_pending_for_callers_is_reported(table: Jobs, pending: Deliveries) -> None:
    job = Job(dialect="native", owner="local", params=Params(scale=2), state=State.FAILED, finished_at=time.time())
    waiting, dead = (Delivery(job_id=job.id, kind=WEBHOOK, url="http://x", base_url="") for _ in range(2))
    table.enqueue(job, [waiting, dead])
    metrics = Metrics(table, pending)
    assert value(metrics.text().decode(), "upscale_deliveries", "pending") == 2
    pending.give_up(dead, "nobody is there")
    text = metrics.text().decode()
    assert (value(text, "upscale_deliveries", "pending"), value(text, "upscale_deliveries", "dead")) == (1, 1)


def test_requests_are_counted_by_dialect_and_status(live_server: LiveServer) -> None:
    live = live_server(max_source_bytes=1000)
    picture = base64.b64encode(draw()).decode()
    for _ in range(2):
        live.client.post("/api/v3/wavespeed-ai/real-esrgan", json={"image": picture, "scale": 2})
    live.client.post("/v3/async/image-upscaler", json={})
    live.client.get("/jobs/none", headers={"Host": "evil.example"})
    live.client.post("/jobs", content=bytes(2 * MIB))
    answer = live.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    count = "upscale_requests_total"
    assert value(answer.text, count, "wavespeed", "POST", "200") == 2
    assert value(answer.text, count, "novita", "POST", "400") == 1
    assert value(answer.text, count, "native", "GET", "403") == 1
    assert value(answer.text, count, "native", "POST", "413") == 1
    assert value(answer.text, "upscale_jobs", "wavespeed", "queued") == 2


def test_where_there_are_keys_metrics_ask_for_one(live_server: LiveServer) -> None:
    live = live_server()
    _, secret = Keys(open_database(live.config.database)).create("prometheus", Limits(daily=0))
    assert live.client.get("/metrics").status_code == 401
    assert live.client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_strangers_pages_get_no_metrics(live: Live) -> None:
    assert live.client.get("/metrics", headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.fixture
def busy(table: Jobs, pending: Deliveries) -> str:
    """What a server shows to which each kind of thing has happened once."""
    metrics = Metrics(table, pending)
    beat(table, "a", tiles=0, tile_retries=0, batch_retries=0)
    metrics.count()
    for status in (200, 429, 503):
        metrics.answered("native", "POST", status)
    add(table)
    end(table, network_pixels=1, seconds={"upscale": 1.0})
    add(table)
    job = table.claim("worker")
    assert job is not None and table.fail(job, SourceUnreadable("it is broken"))
    add(table)
    metrics.count()
    worked = dict.fromkeys(("tiles", "tile_retries", "batch_retries", "busy_seconds", "xid_errors", *_GPU_METRICS), 1.0)
    beat(table, "a", device_bytes=1, graphs=1, **worked)
    metrics.removed("expired", [1])
    return metrics.text().decode()


def test_the_page_describes_every_metric(busy: str) -> None:
    there = {name for name, _ in samples(busy)}
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    described = set(re.findall(r"^\| `(upscale_\w+)`", page, re.MULTILINE))
    assert described == {re.sub("_(bucket|sum|count|created)$", "", name) for name in there if "upscale" in name} - {
        re.sub("_total$", "", name) for name in described if name.endswith("_total")
    }


def test_of_several_machines_only_the_leader_counts_and_shows_what_they_have_together(
    table: Jobs, pending: Deliveries
) -> None:
    leads = {"a": True, "b": False}
    a, b = (Metrics(table, pending, lambda name=name: leads[name]) for name in leads)  # type: ignore[misc]
    for each in (a, b):
        each.count()
        each.answered("native", "GET", 200)
    add(table)
    end(table)
    beat(table, "w", tiles=5)
    texts = [each.text().decode() for each in (a, b)]
    ended = [value(text, "upscale_jobs_ended_total", "native", "succeeded", "") for text in texts]
    assert ended == [1, None], "the sum is right"
    assert ["upscale_workers{" in text for text in texts] == [True, False]
    assert ["upscale_stored_pictures" in text for text in texts] == [True, False]
    assert [value(text, "upscale_requests_total", "native", "GET", "200") for text in texts] == [1, 1]

    leads |= {"a": False, "b": True}
    b.count()
    add(table)
    end(table)
    texts = [each.text().decode() for each in (a, b)]
    assert [value(text, "upscale_jobs_ended_total", "native", "succeeded", "") for text in texts] == [1, 1]
    assert ["upscale_workers{" in text for text in texts] == [False, True]


# --- the dashboard and the alarms -----------------------------------------------------------------------------------

BOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text("utf-8"))
TARGETS = [(f"{panel['title']}, {target['expr']}", target) for panel in BOARD["panels"] for target in panel["targets"]]
ALARMS = re.search(r"^Useful alarms:(.*?)\n\n", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.M | re.S)
SCRAPED = {"job": "upscale-server", "instance": "127.0.0.1:8000"}
"""Labels that Prometheus itself adds."""


class Query:
    """A query in PromQL, held against what there is: its parser says what it asks for."""

    def __init__(self, text: str, there: str) -> None:
        families = list(text_string_to_metric_families(there))
        self._samples = [each for family in families for each in family.samples]
        self._counters = {each.name for f in families if f.type in ("counter", "histogram") for each in f.samples}
        self.labels: set[str] = set()
        """Of the series that it gives."""
        self.labels = self._look(promql_parser.parse(text.replace("$job", SCRAPED["job"])))

    def _look(self, node: Any, of_counters: bool = False) -> set[str]:
        match type(node).__name__:
            case "NumberLiteral":
                return set()
            case "ParenExpr":
                return self._look(node.expr)
            case "BinaryExpr":
                return self._look(node.lhs) | self._look(node.rhs)
            case "AggregateExpr":
                inner, kept = self._look(node.expr), set(node.modifier.labels if node.modifier else ())
                assert kept <= inner, f"{node.prettify()}: there is no label {kept - inner}"
                return kept
            case "Call":
                rates = node.func.name in ("rate", "increase")
                found = set().union(*(self._look(each, rates) for each in node.args))
                return found - {"le"} if node.func.name == "histogram_quantile" else found
            case "MatrixSelector":
                return self._select(node.vector_selector, of_counters)
            case "VectorSelector":
                return self._select(node, of_counters)
        raise AssertionError(f"this test does not know {type(node).__name__}")

    def _select(self, selector: Any, of_counters: bool) -> set[str]:
        found = [each for each in self._samples if each.name == selector.name]
        assert found, f"there is no metric {selector.name}"
        for matcher in selector.matchers.matchers:
            found = [each for each in found if self._fits(each.labels | SCRAPED, matcher)]
            assert found, f"nothing fits {selector.prettify()}"
        if selector.name != "upscale_workers":  # absent() wants none
            assert of_counters == (selector.name in self._counters), f"{selector.name}: only counters have a rate"
        return set(found[0].labels) | set(SCRAPED)

    @staticmethod
    def _fits(labels: dict[str, str], matcher: Any) -> bool:
        assert matcher.name in labels, f"there is no label {matcher.name}"
        value = labels[matcher.name]
        return {
            "MatchOp.Equal": value == matcher.value,
            "MatchOp.NotEqual": value != matcher.value,
            "MatchOp.Re": re.fullmatch(matcher.value, value) is not None,
        }[str(matcher.op)]


@pytest.mark.parametrize("target", [each for _, each in TARGETS], ids=[name for name, _ in TARGETS])
def test_the_dashboard_asks_for_what_there_is(busy: str, target: dict[str, str]) -> None:
    query = Query(target["expr"], busy)
    assert set(re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat", ""))) <= query.labels


def test_the_alarms_of_the_page_ask_for_what_there_is(busy: str) -> None:
    assert ALARMS is not None
    alarms = re.findall(r"`([^`]+)`", ALARMS[1])
    assert len(alarms) >= 6
    for alarm in alarms:
        Query(alarm, busy)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("upscale_job", "no metric"),
        ('upscale_jobs{state="done"}', "nothing fits"),
        ('upscale_jobs{status="queued"}', "no label status"),
        ("sum by (api) (upscale_jobs)", "no label {'api'}"),
        ("rate(upscale_jobs[5m])", "only counters"),
        ("sum(upscale_requests_total)", "only counters"),
    ],
)
def test_a_wrong_query_would_be_noticed(busy: str, wrong: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        Query(wrong, busy)


def test_a_query_with_a_mistake_in_its_form_would_be_noticed(busy: str) -> None:
    with pytest.raises(ValueError, match="unclosed"):
        Query("sum(", busy)
