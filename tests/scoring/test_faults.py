"""What a store does on a bad night: it is asked again, the bytes are right, and what does not end is a StoreError."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import own_table, png, radiograph
from faults import CUT_BODY, LOST_ANSWER, RESET, RESET_IN_BODY, Fault, FaultyProxy, after_parts, refusal, slow_body
from s3server import S3Server

from cxrpipe import storage
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import StoreError
from cxrpipe.models.folder import ModelFolder
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 400
TRANSIENT = {
    "slow down": refusal(503, "SlowDown"),
    "internal error": refusal(500, "InternalError"),
    "reset": RESET,
    "lost answer": LOST_ANSWER,
    "reset in body": RESET_IN_BODY,
    "cut body": CUT_BODY,
}


@pytest.fixture(scope="module")
def one_proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    """Before the real server, with a client whose pauses between tries take no time."""
    with FaultyProxy(s3_server.endpoint) as proxy, pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        for name, value in (s3_server.env() | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
            patched.setenv(name, value)
        patched.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        patched.setattr("cxrpipe.storage.s3_client.READ_TIMEOUT_S", 0.5)
        patched.setattr("cxrpipe.storage.s3.BODY_PAUSE_S", 0.0)
        storage.s3.client.cache_clear()
        yield proxy
    storage.s3.client.cache_clear()


@pytest.fixture
def proxy(one_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Without faults, and a process that has read nothing yet."""
    monkeypatch.setattr("cxrpipe.storage.s3._readable", {})
    monkeypatch.setattr("cxrpipe.storage.s3._denied_first", Counter())
    yield one_proxy
    one_proxy.heal()


@pytest.fixture
def place(bucket: str, s3_server: S3Server) -> str:
    """A prefix with two objects."""
    for name in ("a", "b"):
        s3_server.boto().put_object(Bucket=bucket, Key=f"x/{name}", Body=DATA)
    return f"s3://{bucket}/x"


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_what_fails_twice_is_done_the_third_time(proxy, place, tmp_path, fault: Fault):
    def twice() -> None:
        proxy.heal()
        proxy.fail(fault, times=2)

    twice()
    assert storage.read(f"{place}/a") == DATA
    twice()
    assert storage.read(f"{place}/a", 1000, 5000) == DATA[1000:6000]
    twice()
    with storage.open_seekable(f"{place}/a") as stream:
        stream.seek(77)
        twice()
        assert stream.read() == DATA[77:]
    twice()
    assert [found.url for found in storage.listing(place)] == [f"{place}/a", f"{place}/b"]
    twice()
    storage.write(f"{place}/c", DATA[::-1])
    twice()
    assert storage.write_new(f"{place}/d", DATA)
    (tmp_path / "e").write_bytes(DATA)
    twice()
    storage.upload_file(tmp_path / "e", f"{place}/e")
    proxy.heal()
    assert [storage.read(f"{place}/{name}") for name in "cde"] == [DATA[::-1], DATA, DATA]


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_what_never_ends_is_a_store_error(proxy, place, tmp_path, fault: Fault):
    (tmp_path / "e").write_bytes(DATA)
    proxy.fail(fault)
    with pytest.raises(StoreError, match=place):
        storage.read(f"{place}/a")
    if not fault.reaches_store:
        with pytest.raises(StoreError, match=place):
            storage.write(f"{place}/c", DATA)
        with pytest.raises(StoreError, match=place):
            storage.upload_file(tmp_path / "e", f"{place}/e")


def test_a_body_that_stalls_is_asked_for_again(proxy, place):
    proxy.fail(slow_body(2.0), times=1)
    assert storage.read(f"{place}/a") == DATA


def test_a_name_that_another_has_taken_is_not_ours_however_often_the_store_was_asked(proxy, place):
    proxy.fail(LOST_ANSWER, times=1)
    assert not storage.write_new(f"{place}/a", b"other")
    assert storage.read(f"{place}/a") == DATA


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch")]
)
def test_credentials_that_expire_are_a_store_error_for_every_use(proxy, place, tmp_path, status, code):
    (tmp_path / "e").write_bytes(DATA)
    storage.read(f"{place}/a")
    proxy.fail(refusal(status, code))
    for use in (
        lambda: storage.read(f"{place}/a"),
        lambda: storage.stat(f"{place}/a"),
        lambda: [*storage.listing(place)],
        lambda: storage.write(f"{place}/c", DATA),
        lambda: storage.upload_file(tmp_path / "e", f"{place}/e"),
    ):
        with pytest.raises(StoreError, match="check credentials"):
            use()


def test_one_object_that_is_denied_among_readable_ones_is_its_own_fault(proxy, place):
    storage.read(f"{place}/a")
    proxy.fail(refusal(403, "AccessDenied"), only=lambda request: request.path.endswith("/b"))
    for _ in range(3):
        with pytest.raises(PermissionError, match="/b"):
            storage.read(f"{place}/b")
    assert storage.read(f"{place}/a") == DATA


def test_access_that_is_withdrawn_is_a_store_error(proxy, place):
    storage.read(f"{place}/a")
    proxy.fail(refusal(403, "AccessDenied"))
    with pytest.raises(StoreError, match=r"/x/a, which could be read before"):
        storage.read(f"{place}/b")


def test_denials_without_any_success_are_a_store_error(proxy, place, monkeypatch):
    monkeypatch.setattr("cxrpipe.storage.s3.DENIED_FIRST", 3)
    proxy.fail(refusal(403, "AccessDenied"))
    for _ in range(2):
        with pytest.raises(PermissionError):
            storage.read(f"{place}/b")
    with pytest.raises(StoreError, match="3 times, and no object could be read"):
        storage.read(f"{place}/b")


# ---- a run ----------------------------------------------------------------------------------------------------

STUDIES = {f"s{number}": [png(radiograph(number, 24, 24))] for number in range(8)}


@pytest.fixture
def config(proxy: FaultyProxy, bucket: str, tmp_path: Path, small: ModelFolder) -> ScoreConfig:
    """Eight studies and their score root on the store, in parts of two."""
    own_table(tmp_path, STUDIES)
    storage.upload(tmp_path / "own", f"s3://{bucket}/own")
    return ScoreConfig(
        archive=f"s3://{bucket}/own/table.csv",
        models=(small.url,),
        out=f"s3://{bucket}/root",
        batch_studies=1,
        part_studies=2,
    )


def parts_of(config: ScoreConfig) -> list[str]:
    return [found.url for found in storage.listing(config.out) if "/parts/" in found.url]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [refusal(400, "ExpiredToken"), refusal(503, "SlowDown"), RESET], ids=["expired", "slow down", "away"]
)
def test_a_store_that_goes_away_in_mid_run_breaks_it_and_the_same_command_loses_nothing(proxy, config, fault):
    late = after_parts(2)
    # The lock's own process lives on in this test, and would keep what it cannot release.
    proxy.fail(fault, only=lambda request: late(request) and "/lock/" not in request.path)
    with pytest.raises(StoreError) as caught:
        score_archive(config, loop)
    assert caught.value.exit_status == 1
    proxy.heal()
    before = parts_of(config)
    assert len(before) == 2
    assert score_archive(config, loop) == 0
    assert set(before) < set(parts_of(config))
    rows = read_scores(config.out)
    assert sorted(rows["study_id"].to_pylist()) == sorted(STUDIES)
    assert set(rows["status"].to_pylist()) == {"ok"}


@pytest.mark.slow
def test_one_denied_object_is_a_row_and_the_run_goes_on(proxy, config):
    proxy.fail(refusal(403, "AccessDenied"), only=lambda request: request.path.endswith("/s3_0.png"))
    assert score_archive(config, loop) == 0
    rows = {row["study_id"]: (row["status"], row["reason"]) for row in read_scores(config.out).to_pylist()}
    assert rows == dict.fromkeys(STUDIES, ("ok", None)) | {"s3": ("failed", "denied")}


@pytest.mark.slow
def test_access_to_the_archive_that_is_withdrawn_in_mid_run_makes_no_rows(proxy, config):
    late = after_parts(1)
    proxy.fail(refusal(403, "AccessDenied"), only=lambda request: late(request) and "/own/" in request.path)
    with pytest.raises(StoreError, match="could be read before"):
        score_archive(config, loop)
    proxy.heal()
    assert score_archive(config, loop) == 0
    assert set(read_scores(config.out)["status"].to_pylist()) == {"ok"}
