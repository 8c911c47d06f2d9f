"""The lifecycle rules of a real bucket, as `doctor` reads them, and the rest that it says of a bucket."""

import urllib.request

import pytest

from server.blobs.lifecycle import REMEDY, lifecycle_fact, signed
from tests.cli.conftest import run as run
from tests.cli.outcome import Run, lines
from tests.seaweedfs import ACCESS, BUCKET, SeaweedFS

RULES = (
    "<LifecycleConfiguration><Rule><ID>parts</ID><Status>{status}</Status><Filter><Prefix>{prefix}</Prefix></Filter>"
    "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
    "</Rule></LifecycleConfiguration>"
)


def set_rules(server: SeaweedFS, rules: str) -> None:
    keys = ACCESS["AWS_ACCESS_KEY_ID"], ACCESS["AWS_SECRET_ACCESS_KEY"], ACCESS["AWS_REGION"]
    request = signed(f"{server.endpoint}/{BUCKET}", *keys, method="PUT", body=rules.encode())
    urllib.request.urlopen(request, timeout=20).close()


@pytest.mark.slow
def test_a_rule_counts_where_it_is_in_force_for_all_pictures(seaweedfs: SeaweedFS) -> None:
    def fact(prefix: str = "here") -> str:
        return lifecycle_fact(f"s3://{BUCKET}/{prefix}", seaweedfs.endpoint)

    assert fact() == f"PROBLEM: {REMEDY}"
    good = "removes parts of uploads that were cut off"
    set_rules(seaweedfs, RULES.format(status="Enabled", prefix=""))
    assert fact() == good
    set_rules(seaweedfs, RULES.format(status="Enabled", prefix="here"))
    assert (fact(), fact("elsewhere")) == (good, f"PROBLEM: {REMEDY}")
    set_rules(seaweedfs, RULES.format(status="Disabled", prefix=""))
    assert fact() == f"PROBLEM: {REMEDY}"


@pytest.mark.slow
def test_rules_that_can_not_be_read_are_no_problem_but_said(
    seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert lifecycle_fact(f"s3://{BUCKET}", seaweedfs.endpoint).startswith("not checked: the bucket answered 403")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert lifecycle_fact(f"s3://{BUCKET}", seaweedfs.endpoint).startswith("not checked, which needs AWS_ACCESS_KEY_ID")


@pytest.mark.slow
def test_doctor_tries_the_bucket_out(run: Run, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweedfs.new_url()
    monkeypatch.setenv("UPSCALE_BLOB_URL", url)
    monkeypatch.setenv("UPSCALE_BLOB_ENDPOINT", seaweedfs.endpoint)
    (facts,) = lines(run("doctor", "--json"))
    assert facts["pictures"] == f"{url} at {seaweedfs.endpoint}"
    assert facts["bucket"].startswith("reachable and writable, ")
    assert facts["bucket's clock"] == "as this machine's"
    assert "bucket's rules" in facts
    assert ACCESS["AWS_SECRET_ACCESS_KEY"] not in str(facts)


def test_doctor_says_what_is_wrong_with_a_bucket_and_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSCALE_BLOB_URL", "s3://pictures")
    monkeypatch.setenv("UPSCALE_BLOB_ENDPOINT", "http://127.0.0.1:9")
    (facts,) = lines(run("doctor", "--json"))
    assert facts["bucket"].startswith("PROBLEM: ") and "data folder" in facts
    assert facts["bucket's rules"].startswith("not checked: ")
