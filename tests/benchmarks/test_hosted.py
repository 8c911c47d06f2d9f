"""The comparison of services, against this server acting as each of them; the report in a real browser."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.hosted import report, summary
from benchmarks.hosted.__main__ import main
from benchmarks.hosted.line import Done, Entry, Line, Patience
from benchmarks.hosted.picture import load
from benchmarks.hosted.results import Results
from benchmarks.hosted.score import score
from benchmarks.hosted.vendors import BY_NAME, VENDORS
from benchmarks.hosted.vendors.base import Order, Sent
from server.errors import OutOfMemory
from tests.conftest import Live, LiveServer, Picture, Receiver

ORDER = Order(scale=2, target="2k", format="png", task="")
FAST = Patience(job_s=20, poll_s=0.02, retries=1)


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Two pictures."""
    made = tmp_path / "pictures"
    made.mkdir()
    (made / "one.png").write_bytes(picture(96, 64))
    (made / "two.jpg").write_bytes(picture(64, 96, kind="jpeg"))
    return made


def compare(live: Live, pictures: Path, *options: str, names: tuple[str, ...] = tuple(BY_NAME)) -> dict[str, Any]:
    vendors = [word for name in names for word in ("--vendor", f"{name}@{live.url}")]
    out = live.config.data_dir.parent / "out"
    main([str(pictures), *vendors, "-o", str(out), "--poll-s", "0.02", "--scale", "2", *options])
    found: dict[str, Any] = json.loads((out / "hosted.json").read_text())
    return found


def entry(name: str, url: str, **fields: Any) -> Entry:
    vendor = BY_NAME[name]
    return Entry(name, vendor, url, "inline" if vendor.ways[0] == "url" else vendor.ways[0], **fields)


def sent(data: bytes) -> Sent:
    return Sent("one.png", data, "image/png", 32, 24)


def run(one: Entry, data: bytes, patience: Patience = FAST) -> Done:
    line = Line(one, patience)
    try:
        return line.run(sent(data), ORDER)
    finally:
        line.close()


# --- this server as each of them ------------------------------------------------------------------------------------


def test_all_services_are_measured_with_the_same_pictures(live_server: LiveServer, folder: Path) -> None:
    live = live_server(price_per_job=0.03)
    with live.worker.working():
        found = compare(live, folder, "--rounds", "1", "--at-a-time", "1")
    assert [each["label"] for each in found["services"]] == [vendor.name for vendor in VENDORS]
    for service in found["services"]:
        assert (service["errors"], service["jobs"]) == ([], 2 + 2), service["label"]
        latency = service["latency"]
        assert 0 < latency["p50_s"] <= latency["p95_s"] <= latency["slowest_s"]
        assert (latency["stages_s"]["upload"] > 0) == (service["sent"] == "upload")
        assert min(latency["stages_s"][stage] for stage in ("submit", "wait", "download")) > 0
        assert service["throughput"]["pictures_per_minute"] > 0 and service["throughput"]["results"] == 2
        sizes = [(each["width"], each["height"]) for each in service["pictures"]]
        wanted = [(192, 128), (128, 192)] if BY_NAME[service["vendor"]].by == "scale" else [(2048, 1365), (1365, 2048)]
        assert sizes == wanted, service["label"]
    rounds = [job["label"] for job in found["jobs"] if job["phase"] == "one by one"]
    count = len(VENDORS)
    assert {rounds[start] for start in range(0, len(rounds), count)} > {VENDORS[0].name}, "they take turns to begin"
    assert all(len(set(rounds[start : start + count])) == count for start in range(0, len(rounds), count))


def test_the_cost_is_told_with_its_source(live_server: LiveServer, folder: Path) -> None:
    live = live_server(price_per_job=0.03)
    with live.worker.working():
        found = compare(live, folder / "one.png", "--at-a-time", "0", "--rounds", "1", "--price", "native=0.5")
    costs = {each["label"]: (each["cost"]["source"], each["cost"]["usd_per_picture"]) for each in found["services"]}
    assert costs["wavespeed"] == costs["wavespeed-real-esrgan"] == ("quoted", 0.03)
    assert costs["vibedream"] == ("reported", 0.03)
    assert costs["runware"][0] == "reported"  # of a stand-in's result, which costs nothing
    assert costs["novita"] == ("unknown", None)
    assert costs["native"] == ("given", 0.5)


def test_list_prices_are_for_the_vendors_own_addresses_only() -> None:
    own = Entry("vibedream", BY_NAME["vibedream"], BY_NAME["vibedream"].base_url, "inline")
    assert summary.cost_of(own, [], {})["source"] == "listed"
    assert summary.cost_of(entry("vibedream", "http://127.0.0.1:1"), [], {})["source"] == "unknown"


def test_synchronous_submits_need_no_polls_where_the_api_has_them(live: Live, folder: Path) -> None:
    with live.worker.working():
        found = compare(live, folder / "one.png", "--sync", "--rounds", "1", "--at-a-time", "0")
    polled = {job["label"] for job in found["jobs"] if job["polls"]}
    assert polled == {"novita", "native"}
    assert [each["errors"] for each in found["services"]] == [[]] * len(VENDORS)


def test_pictures_go_by_address_where_one_is_given(live_server: LiveServer, picture: Picture) -> None:
    ours = live_server(allow_hosts=("127.0.0.1",))
    up = ours.client.post("/api/v3/media/upload/binary", files={"file": ("one.png", picture())}).json()["data"]
    base, _, name = up["download_url"].rpartition("/")
    one = Entry("vibedream", BY_NAME["vibedream"], ours.url, "url", base)
    line = Line(one, FAST)
    with ours.worker.working():
        done = line.run(Sent(name, b"", "image/png", 32, 24), ORDER)
    line.close()
    assert done.error == "" and done.data.startswith(b"\x89PNG")


def test_a_job_that_fails_is_an_error_in_the_service_s_words(live: Live, picture: Picture) -> None:
    for vendor in VENDORS:
        line = Line(entry(vendor.name, live.url), FAST)
        failed = line.run(sent(picture(3, 3)[:40]), ORDER)
        line.close()
        assert failed.kind in ("failed", "refused") and "picture" in failed.error, (vendor.name, failed)


def test_a_worker_s_failure_is_told_by_every_api(live: Live, picture: Picture) -> None:
    for vendor in VENDORS:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run, entry(vendor.name, live.url), picture())
            live.worker.fail(OutOfMemory("even the smallest tile does not fit"))
        assert waiting.result().kind == "failed", vendor.name
        assert waiting.result().error.endswith("even the smallest tile does not fit"), vendor.name


def test_a_wrong_key_is_refused_and_never_repeated(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("right",))
    for vendor in VENDORS:
        refused = run(entry(vendor.name, live.url, key="wrong-key-of-mine"), picture())
        assert refused.kind == "refused" and "HTTP 401" in refused.error, vendor.name
        assert refused.retries == 0 and "wrong-key-of-mine" not in refused.error


def test_a_job_that_takes_too_long_is_a_timeout(live: Live, picture: Picture) -> None:
    late = run(entry("native", live.url), picture(), Patience(job_s=1.5, poll_s=0.05, retries=1))
    assert late.kind == "timeout" and "1.5 s" in late.error and late.polls > 0
    assert 1.5 <= late.total_s < 5


def test_busy_servers_are_asked_again_and_broken_submits_are_not(receiver: Receiver, picture: Picture) -> None:
    receiver.answers = [503, 500]
    busy = run(entry("native", receiver.url), picture(), Patience(job_s=20, poll_s=0.02, retries=3))
    assert (busy.retries, len(receiver.got), busy.kind) == (1, 2, "refused") and "HTTP 500" in busy.error


def test_a_service_that_is_not_there_is_said_to_be_unreachable(picture: Picture) -> None:
    gone = run(entry("novita", "http://127.0.0.1:9"), picture())
    assert (gone.kind, gone.retries) == ("unreachable", 1)


def test_an_answer_that_nobody_documents_is_not_guessed_at(receiver: Receiver, picture: Picture) -> None:
    odd = run(entry("novita", receiver.url), picture())  # 200, and nothing in it
    assert odd.kind == "unreadable" and "not understood" in odd.error


def test_keys_go_to_the_api_alone_and_a_vendor_s_never_elsewhere(
    live_server: LiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAVESPEED_API_KEY", "the-vendors-own-key")
    monkeypatch.setenv("NATIVE_API_KEY", "our-own-key")
    live = live_server(api_keys=("our-own-key",))
    with live.worker.working():
        compare(live, folder, "--rounds", "1", "--at-a-time", "1", names=("wavespeed", "native"))
    shown = capsys.readouterr().out
    written = "".join(path.read_text() for path in (folder.parent / "out").glob("*.*"))
    for key in ("the-vendors-own-key", "our-own-key"):
        assert key not in shown + written
    found = json.loads((folder.parent / "out" / "hosted.json").read_text())
    assert [each["errors"] for each in found["services"]] == [[], []], "it took NATIVE_API_KEY"


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATIVE_API_KEY", "half of\na-secret")
    with pytest.raises(SystemExit, match="NATIVE_API_KEY is no key") as mistake:
        main([str(folder), "--vendor", "native", "-o", str(folder.parent / "out")])
    assert "secret" not in str(mistake.value)


# --- pictures and scores --------------------------------------------------------------------------------------------


def test_references_become_sources_and_results_are_held_against_them(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.effect_mandelbrot((402, 301), (-2, -1.5, 1, 1.5), 80).convert("RGB").save(folder / "truth.png")
    with live.worker.working():
        found = compare(
            live, folder, "--reference-scale", "2", "--rounds", "1", "--at-a-time", "0", names=("native", "wavespeed")
        )
    picture = found["pictures"][0]
    assert (picture["width"], picture["height"], picture["reference"]) == (201, 150, True)
    assert picture["common_size"] == [402, 300]
    for service in found["services"]:  # a stand-in's gradient is nothing like it, but all can be reckoned
        quality = service["quality"]
        assert 0 < quality["psnr"] < 20 and 0 < quality["haarpsi"] < 0.9


def test_a_result_like_the_reference_scores_better_than_a_blurred_one(tmp_path: Path) -> None:
    truth = Image.effect_mandelbrot((512, 384), (-2, -1.5, 1, 1.5), 80).convert("RGB")
    small = truth.resize((128, 96), Image.Resampling.BICUBIC)
    same, near, far = (score(each, truth.size, truth) for each in (truth, truth.resize((1024, 768)), small))
    for name in ("psnr", "haarpsi"):
        values = [figures[name] for figures in (same, near, far)]
        assert None not in values and values == sorted(values, key=lambda value: -(value or 0)), name
    assert 0 < (same["niqe"] or 0) < 100
    assert same["psnr"] == 100 and same["haarpsi"] == pytest.approx(1, abs=1e-4)
    assert score(truth.resize((512, 200)), truth.size, truth) == {"psnr": None, "haarpsi": None, "niqe": None}


def test_files_go_out_as_they_are_or_as_png(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "a b.jpg").write_bytes(picture(kind="jpeg"))
    (tmp_path / "a-b.bmp").write_bytes(picture(kind="bmp"))
    first, second = load([tmp_path / "a b.jpg", tmp_path / "a-b.bmp"])
    assert (first.sent.name, first.sent.data) == ("a-b.jpg", picture(kind="jpeg"))
    assert second.sent.name == "a-b-2.png" and second.sent.data.startswith(b"\x89PNG")
    (tmp_path / "no.png").write_bytes(b"text")
    with pytest.raises(SystemExit, match="can't be read"):
        load([tmp_path / "no.png"])


def test_the_same_result_is_kept_once(tmp_path: Path, picture: Picture) -> None:
    results = Results(tmp_path)
    for data in (picture(), picture(), picture(40, 40)):
        results.take("native", "one", data)
    assert [path.name for path in results.of("native", "one")] == ["one-1.png", "one-2.png"]
    assert results.facts()["native", "one"]["different"] == 2


# --- the command line -----------------------------------------------------------------------------------------------


def test_a_dry_run_shows_requests_and_cost_and_sends_nothing(
    receiver: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NATIVE_API_KEY", "secret-secret")
    vendors = [word for name in BY_NAME for word in ("--vendor", f"{name}@{receiver.url}")]
    fields = ["--field", "runware.model=runware:504@1", "--field", "native.scale=null", "--field", "native.target=4k"]
    real = ["--vendor", "real=runware"]
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    main([str(folder), *vendors, *real, *fields, "-o", str(folder.parent / "out"), "--dry-run"])
    shown = capsys.readouterr().out
    assert "secret-secret" not in shown and receiver.got == []
    assert f"POST {receiver.url}/v3/async/image-upscaler" in shown and '"model": "runware:504@1"' in shown
    assert '{"format": "png", "target": "4k"}' in shown
    assert "RUNWARE_API_KEY, NOT SET" in shown
    assert "30 jobs at $0.0013 (listed: " in shown and "In all 240 jobs, $0.04, and wavespeed" in shown
    assert max(map(len, shown.splitlines())) < 400, "pictures are not shown"
    assert sorted(path.name for path in (folder.parent / "out" / "inputs").iterdir()) == ["one.png", "two.jpg"]


MISTAKES = {
    ("--vendor", "elsewhere"): "NAME one of wavespeed, ",
    ("--vendor", "native", "--vendor", "native@http://127.0.0.1:1"): "give it a label of its own",
    ("--vendor", "native", "--send", "native=upload"): "native takes form, url, inline",
    ("--vendor", "novita", "--send", "novita=url"): "needs --inputs-url",
    ("--vendor", "novita", "--price", "runware=1"): "there is no runware",
    ("--vendor", "runware", "--scale", "5"): "at most 4 times",
    ("--vendor", "runware", "--scale", "2.5"): "whole factors only",
    ("--vendor", "novita"): "set the environment variable NOVITA_API_KEY",
    ("--vendor", "native", "--price", "native=1"): "more than --max-usd 5",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_told_in_words_before_anything_is_sent(
    words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOVITA_API_KEY", raising=False)
    with pytest.raises(SystemExit) as mistake:
        main([str(folder), *words, "-o", str(folder.parent / "out")])
    assert MISTAKES[words] in str(mistake.value)


# --- the report -----------------------------------------------------------------------------------------------------


REPORTED = ("native", "runware", "wavespeed-real-esrgan")


@pytest.fixture
def written(live: Live, folder: Path) -> Path:
    """A report on three services."""
    with live.worker.working():
        compare(live, folder, "--at-a-time", "1", "--rounds", "1", names=REPORTED)
    return folder.parent / "out" / "report.html"


@pytest.fixture
def page(browser: Browser, written: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else problems.append(asked.url),
    )
    opened.set_default_timeout(10_000)
    opened.goto(written.as_uri())
    yield opened
    context.close()
    assert problems == []


def names_shown(page: Page) -> str:
    return page.locator("#ballot").inner_text()


def test_the_report_needs_nothing_else_and_axe_finds_nothing(page: Page) -> None:
    assert page.locator("svg[role=img]").count() >= 3
    assert "p95" in (page.locator("svg").first.get_attribute("aria-label") or "")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_votes_are_blind_kept_and_counted_by_keyboard_alone(page: Page) -> None:
    ballot = page.locator("#ballot")
    said = page.get_by_role("status")
    expect(said).to_contain_text("Pair 1 of 6")  # three services, two pictures
    assert not re.search("|".join(REPORTED), names_shown(page))
    assert page.locator("#a").get_attribute("alt") == "Result A"
    ballot.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#border").input_value() == "55"
    for number, key in enumerate("abeab"):
        page.keyboard.press(key)
        expect(said).to_contain_text(f"Pair {number + 2} of 6")
    page.reload()
    expect(said).to_contain_text("Pair 6 of 6")
    ballot.focus()
    page.keyboard.press("v")
    expect(page.get_by_role("button", name="Close up")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("e")
    expect(said).to_contain_text("All 6 pairs are done")
    assert not re.search("|".join(REPORTED), names_shown(page))
    page.get_by_role("button", name="Reveal the names").press("Enter")
    rows = page.locator("#tally tbody tr").all_inner_texts()
    counts = [[int(cell) for cell in row.split("\t")[1:4]] for row in rows]
    assert sorted(row.split("\t")[0] for row in rows) == sorted(REPORTED)
    assert [sum(column) for column in zip(*counts, strict=True)] == [4, 4, 4]  # won, as good (of both), lost
    assert re.search(": (native|runware|wavespeed)", page.locator("#name-a").inner_text())
    assert Axe().run(page).violations_count == 0
    page.get_by_role("button", name="Start over").click()
    expect(said).to_contain_text("Pair 1 of 6")


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_pictures_over_the_limit_are_left_out_and_named(written: Path) -> None:
    found = json.loads((written.parent / "hosted.json").read_text())

    def drawn(label: str, name: str) -> Image.Image:
        return Image.effect_noise((256, 256 if name == "one" else 255), 80).convert("RGB")

    for picture in found["pictures"]:
        picture["common_size"] = [256, 256]
    whole = report.page(found, drawn)
    assert "Left out" not in whole
    small = report.page(found, drawn, len(whole) // 2)
    assert "Left out, for the size of this file: two." in small and len(small) < len(whole)


def test_what_services_say_is_text_in_the_report(written: Path) -> None:
    found = json.loads((written.parent / "hosted.json").read_text())
    evil = "</script><img src=x onerror=alert(1)>"
    found["services"][0]["errors"] = [{"kind": "failed", "words": evil, "jobs": 1}]
    found["pictures"][0]["name"] = evil
    assert "<img src=x" not in report.page(found, lambda label, name: Image.new("RGB", (256, 256)))
