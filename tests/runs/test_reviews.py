"""Verdicts on disk and on S3: none lost, none doubled, none of a forgotten patient."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from readings import verdict

from cxrpipe import storage
from cxrpipe.errors import ConfigError, LockError
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot


def files(root: str) -> list[str]:
    return [file.url.removeprefix(f"{root}/reviews/") for file in storage.listing(storage.join(root, "reviews"))]


def words(rows: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(rows[name].to_pylist() for name in ("study_id", "finding", "verdict")), strict=True))


def test_what_was_written_is_read_by_everybody(anywhere: str) -> None:
    one = verdict("s1", verdict_id="submission-1")
    other = verdict("s1", "wrong", finding="Mass", verdict_id="submission-1", note="3 cm")
    Reviews(ScoreRoot.at(anywhere)).write([one, other])
    assert Reviews(ScoreRoot.at(anywhere)).read().to_pylist() == [vars(one), vars(other)]
    assert files(anywhere) == ["verdicts/submission-1.parquet"]


def test_a_root_without_verdicts_has_none(anywhere: str) -> None:
    reviews = Reviews(ScoreRoot.at(anywhere))
    assert (reviews.read().num_rows, reviews.labels().num_rows, reviews.merge()) == (0, 0, 0)


def test_a_repeated_request_is_not_doubled_before_or_after_a_merge(anywhere: str) -> None:
    reviews = Reviews(ScoreRoot.at(anywhere))
    sent = verdict("s1", minute=1)
    for _ in range(2):
        reviews.write([sent])
    reviews.write([verdict("s2", minute=2)])
    assert reviews.merge() == 2
    assert files(anywhere) == ["merged/00000001.parquet"]
    reviews.write([sent])
    assert words(reviews.history()) == [("s1", "Pneumonia", "agree"), ("s2", "Pneumonia", "agree")]
    assert reviews.merge() == 0  # a single file is not worth a merge
    assert reviews.merge(at_least=1) == 1
    assert words(Reviews(ScoreRoot.at(anywhere)).history()) == words(reviews.history())
    assert files(anywhere) == ["merged/00000002.parquet"]


def test_a_merge_keeps_what_a_reader_said_before(tmp_path: Path) -> None:
    reviews = Reviews(ScoreRoot.at(str(tmp_path)))
    for minute, word in enumerate(("agree", "unsure", "wrong")):
        reviews.write([verdict(word=word, minute=minute)])
    reviews.merge()
    assert [word for _, _, word in words(reviews.history())] == ["agree", "unsure", "wrong"]
    assert [word for _, _, word in words(reviews.read())] == ["wrong"]


def test_a_merge_that_broke_off_after_writing_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = Reviews(ScoreRoot.at(str(tmp_path)))
    for study in ("s1", "s2"):
        reviews.write([verdict(study)])
    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete", lambda url: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reviews.merge()
    assert len(files(str(tmp_path))) == 3
    assert [study for study, _, _ in words(Reviews(ScoreRoot.at(str(tmp_path))).read())] == ["s1", "s2"]
    assert reviews.merge() == 2
    assert files(str(tmp_path)) == ["merged/00000002.parquet"]


def test_a_merge_waits_for_no_run_and_disturbs_none(tmp_path: Path) -> None:
    root = ScoreRoot.at(str(tmp_path))
    for study in ("s1", "s2"):
        Reviews(root).write([verdict(study)])
    with root.locked(), pytest.raises(LockError):
        Reviews(ScoreRoot.at(str(tmp_path))).merge()
    assert len(files(str(tmp_path))) == 2


def test_reading_while_others_merge_loses_nothing(tmp_path: Path) -> None:
    root = ScoreRoot.at(str(tmp_path))
    writer, reader = Reviews(root), Reviews(root)
    for number in range(30):
        writer.write([verdict(f"s{number}")])
        if number % 10 == 9:
            with ThreadPoolExecutor(1) as pool:
                merging = pool.submit(writer.merge)
                while not merging.done():
                    assert Reviews(root).read().num_rows == number + 1
        assert reader.read().num_rows == number + 1


def test_a_file_that_is_merged_away_between_listing_and_reading_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ScoreRoot.at(str(tmp_path))
    for study in ("s1", "s2"):
        Reviews(root).write([verdict(study)])
    read, merged = storage.read, []

    def reads_late(url: str) -> bytes:
        if not merged:
            merged.append(url)
            Reviews(root).merge()
        return read(url)

    monkeypatch.setattr(storage, "read", reads_late)
    assert Reviews(root).read().num_rows == 2
    assert merged


def test_labels_of_one_model_can_be_asked_for_and_labels_of_all_are_given(tmp_path: Path) -> None:
    reviews = Reviews(ScoreRoot.at(str(tmp_path)))
    reviews.write([verdict("s1", fingerprint="f1")])
    reviews.write([verdict("s2", "wrong", fingerprint="f2")])
    assert sorted(reviews.labels()["study_id"].to_pylist()) == ["s1", "s2"]
    assert reviews.labels("f2").to_pylist() == [{"study_id": "s2", "finding": "Pneumonia", "label": 0, "readers": 1}]


def test_no_verdict_on_a_forgotten_patient_is_written_or_read(anywhere: str) -> None:
    root = ScoreRoot.at(anywhere)
    reviews = Reviews(root)
    reviews.write([verdict("s1")])
    reviews.write([verdict("s2")])
    root.forget("patient_s1")
    with pytest.raises(ConfigError, match="s1: its patient is forgotten; no verdict of this submission is kept"):
        reviews.write([verdict("s1", "wrong")])
    assert reviews.read()["study_id"].to_pylist() == ["s2"]
    reviews.merge()
    assert Reviews(ScoreRoot.at(anywhere)).history()["study_id"].to_pylist() == ["s2"]
    assert "patient_s1" not in str(storage.read_table(f"{anywhere}/reviews/merged/00000001.parquet").to_pylist())


def test_a_patient_who_is_forgotten_while_a_verdict_is_written_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ScoreRoot.at(str(tmp_path))
    write_new: Callable[[str, bytes], bool] = storage.write_new

    def forgets_meanwhile(url: str, data: bytes) -> bool:
        root.forget("patient_s1")
        return write_new(url, data)

    monkeypatch.setattr(storage, "write_new", forgets_meanwhile)
    with pytest.raises(ConfigError, match="forgotten"):
        Reviews(root).write([verdict("s1")])
    assert files(str(tmp_path)) == []


def test_notes_are_refused_where_they_are_off(tmp_path: Path) -> None:
    reviews = Reviews(ScoreRoot.at(str(tmp_path)), allow_notes=False)
    with pytest.raises(ConfigError, match="notes are off under pseudonyms"):
        reviews.write([verdict(note="Mrs Smith")])
    reviews.write([verdict(note=" ")])
    assert reviews.read()["note"].to_pylist() == [None]


def test_a_submission_is_of_one_reader_and_has_one_verdict_on_a_finding(tmp_path: Path) -> None:
    reviews = Reviews(ScoreRoot.at(str(tmp_path)))
    for together in (
        [],
        [verdict("s1", verdict_id="submission-1"), verdict("s2", verdict_id="submission-2")],
        [verdict(verdict_id="submission-1")] * 2,
    ):
        with pytest.raises(ConfigError):
            reviews.write(together)


def test_a_file_that_holds_no_verdicts_is_named(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "reviews/verdicts/broken-file.parquet"), b"PAR1")
    with pytest.raises(ConfigError, match=r"verdicts/broken-file.parquet: not a file of verdicts"):
        Reviews(ScoreRoot.at(str(tmp_path))).read()
