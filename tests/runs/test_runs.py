"""A score root: what is planned, what is done, and what is published, exactly once. No model is loaded here."""

import errno
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrpipe import storage
from cxrpipe.archives.study_table_writer import write_study_table
from cxrpipe.errors import LockError, RunError, StoreError
from cxrpipe.records import Study, View, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs import publish as publishing
from cxrpipe.runs.plan import Selection, freeze, new_run, plan_hash
from cxrpipe.runs.publish import publish
from cxrpipe.runs.resume import done_ids
from cxrpipe.runs.root import Run, RunPlan, ScoreRoot
from cxrpipe.scoring.parts import score_table, write_part

SPLITS = ("train", "valid", "test")


def table_of(folder: Path, studies: Iterable[str], version: str = "1") -> StudyTable:
    """A study table whose files nobody opens."""
    (folder / "scratch").mkdir(parents=True)
    found = (
        Study(
            study_id=study_id,
            split=SPLITS[number % 3],
            labels={"Mass": None},
            views=(View(url=f"/cxr/{study_id}.png", version=version),),
        )
        for number, study_id in enumerate(studies)
    )
    out = folder / "table" / "studies.parquet"
    write_study_table(found, str(out), archive="/cxr", layout="table", split_seed=0, scratch=folder / "scratch")
    return StudyTable(str(out))


def ids(count: int) -> list[str]:
    return [f"s{number:04d}" for number in range(count)]


def write_rows(
    run: Run, studies: Iterable[str], detail: str | None = None, reason: str | None = None, name: str | None = None
) -> Path:
    """A part with rows of these studies; its path. `reason`: of every row. `name`: instead of the part's own."""
    before = set(Path(run.parts).glob("*"))
    rows = [
        {
            "study_id": study_id,
            "study_digest": "d",
            "fingerprint": "f",
            "status": "failed" if reason else "ok",
            "reason": reason,
            "detail": detail,
            "n_views": 1,
            "n_views_ok": 1,
            "flags": [],
            "views": [],
        }
        for study_id in studies
    ]
    write_part(score_table(rows, ["Mass"]), run.parts)
    (written,) = set(Path(run.parts).glob("*")) - before
    return written.rename(written.with_name(name)) if name else written


def frozen_run(folder: Path, studies: Iterable[str]) -> Run:
    """A run that has been planned and frozen, in a root of its own."""
    selection = Selection(table_of(folder, studies), None, None)
    hash_, _ = plan_hash(selection, "f")
    run = new_run(ScoreRoot(str(folder / "root")), RunPlan(hash_))
    freeze(run, selection, selection.table.seek_points)
    return run


def published(run: Run) -> list[str]:
    """The study ids in the published files, file after file."""
    files = sorted(Path(run.scores).glob("*.parquet"))
    return [study_id for file in files for study_id in pq.read_table(file)["study_id"].to_pylist()]


# ---- plan -----------------------------------------------------------------------------------------------------


def test_equal_plans_have_equal_hashes_whatever_the_order_of_the_table(tmp_path):
    one = Selection(table_of(tmp_path / "a", ids(9)), None, None)
    other = Selection(table_of(tmp_path / "b", reversed(ids(9))), None, None)
    assert plan_hash(one, "f") == plan_hash(other, "f")
    assert plan_hash(one, "f")[1] == 9


def test_another_fingerprint_digest_or_study_is_another_plan(tmp_path):
    table = table_of(tmp_path / "a", ids(9))
    changed = table_of(tmp_path / "b", ids(9), version="2")
    hashes = {
        plan_hash(Selection(table, None, None), "f")[0],
        plan_hash(Selection(table, None, None), "other")[0],
        plan_hash(Selection(changed, None, None), "f")[0],
        plan_hash(Selection(table, None, 8), "f")[0],
        plan_hash(Selection(table, "test", None), "f")[0],
    }
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("split", "limit", "expected"),
    [
        (None, None, [0, 1, 2, 3, 4, 5, 6]),
        (None, 2, [0, 1]),
        ("test", None, [2, 5]),
        ("test", 1, [2]),
        ("train", 99, [0, 3, 6]),
    ],
)
def test_a_selection_is_the_first_studies_of_its_split(tmp_path, monkeypatch, split, limit, expected):
    monkeypatch.setattr("cxrpipe.records.study_table._BATCH", 2)  # so that the limit falls across batches
    selection = Selection(table_of(tmp_path, ids(7)), split, limit)
    found = [study_id for batch in selection.batches() for study_id in batch["study_id"].to_pylist()]
    assert found == [f"s{number:04d}" for number in expected]


def test_the_frozen_list_is_the_selection_whatever_becomes_of_the_table(tmp_path):
    table = table_of(tmp_path, ids(9))
    run = ScoreRoot(str(tmp_path / "root")).run("r")
    freeze(run, Selection(table, "test", None), table.seek_points)
    Path(table.url).unlink()
    frozen = StudyTable(run.studies)
    assert [study.study_id for study in frozen.studies()] == ["s0002", "s0005", "s0008"]
    assert frozen.seek_points == table.seek_points
    assert frozen.findings == ("Mass",)


def test_a_run_is_found_by_its_plan_and_the_newest_of_several_wins(tmp_path):
    root = ScoreRoot(str(tmp_path))
    new_run(root, RunPlan("a" * 64))
    newest = new_run(root, RunPlan("a" * 64))
    new_run(root, RunPlan("b" * 64))
    assert root.find_run("a" * 64) == newest
    assert root.find_run("c" * 64) is None


# ---- resume ---------------------------------------------------------------------------------------------------


def test_what_readable_parts_hold_is_done(tmp_path):
    run = frozen_run(tmp_path, ids(6))
    write_rows(run, ids(6)[:2])
    write_rows(run, ids(6)[2:3])
    assert done_ids(run).contains(ids(6)).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("kept_bytes", [0, 4, -1, -300])
def test_a_part_that_breaks_off_is_deleted_and_its_studies_are_not_done(tmp_path, kept_bytes):
    run = frozen_run(tmp_path, ids(4))
    write_rows(run, ids(4)[:2])
    cut = write_rows(run, ids(4)[2:])
    cut.write_bytes(cut.read_bytes()[:kept_bytes])
    assert done_ids(run).contains(ids(4)).tolist() == [True, True, False, False]
    assert not cut.exists()


def test_what_a_writer_left_half_way_is_no_part(tmp_path):
    run = frozen_run(tmp_path, ids(2))
    part = write_rows(run, ids(2))
    part.rename(part.with_name(f".{part.name}.77.tmp"))
    assert not len(done_ids(run))
    assert not [*Path(run.parts).iterdir()]


# ---- publish --------------------------------------------------------------------------------------------------


def test_every_study_is_published_once_though_parts_overlap(tmp_path):
    run = frozen_run(tmp_path, ids(6))
    part = write_rows(run, ids(6)[:4])
    part.with_name("part-copy.parquet").write_bytes(part.read_bytes())
    write_rows(run, ids(6)[2:])
    counts = publish(run)
    assert sorted(published(run)) == ids(6)
    assert counts == {"ok": 6}


@pytest.mark.parametrize("names", [("part-0.parquet", "part-1.parquet"), ("part-1.parquet", "part-0.parquet")])
def test_a_final_row_is_published_instead_of_an_internal_error_whichever_is_read_first(tmp_path, names):
    run = frozen_run(tmp_path, ids(5))
    write_rows(run, ids(5)[:4], "met an error", "internal_error", names[0])
    write_rows(run, [*ids(5)[2:], ids(5)[4]], "scored", name=names[1])
    write_rows(run, ids(5)[:2], "met another", "internal_error", "part-2.parquet")
    assert publish(run) == {"ok": 3, "failed/internal_error": 2}
    rows = pq.read_table(run.scores).to_pylist()
    assert {row["study_id"]: row["detail"] for row in rows} == {
        "s0000": "met an error",
        "s0001": "met an error",
        "s0002": "scored",
        "s0003": "scored",
        "s0004": "scored",
    }
    assert len(rows) == 5


def test_rows_are_published_in_the_order_of_the_parts_names_in_full_row_groups(tmp_path):
    run = frozen_run(tmp_path, ids(1_200))
    for number in range(12):
        write_rows(run, ids(1_200)[100 * number :][:100], name=f"part-{number:02d}.parquet")
    publish(run)
    assert published(run) == ids(1_200)
    metadata = pq.read_metadata(min(Path(run.scores).iterdir()))
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [1_000, 200]


def test_a_study_that_the_list_does_not_have_is_not_published(tmp_path):
    run = frozen_run(tmp_path, ids(2))
    write_rows(run, [*ids(2), "stranger"])
    assert publish(run) == {"ok": 2}
    assert sorted(published(run)) == ids(2)


def test_a_study_in_no_part_is_named_and_nothing_is_published(tmp_path):
    run = frozen_run(tmp_path, ids(3))
    write_rows(run, ids(3)[:2])
    with pytest.raises(RunError, match=r"1 studies are in no part.*s0002"):
        publish(run)
    assert published(run) == []


def test_where_a_study_is_in_no_part_what_an_earlier_attempt_published_stays(tmp_path):
    run = frozen_run(tmp_path, ids(4))
    write_rows(run, ids(4)[:2])
    part = write_rows(run, ids(4)[2:])
    publish(run)
    part.unlink()
    with pytest.raises(RunError, match="2 studies are in no part"):
        publish(run)
    assert sorted(published(run)) == ids(4)


def test_a_lock_that_is_lost_while_parts_are_merged_leaves_what_is_published(tmp_path):
    run = frozen_run(tmp_path, ids(4))
    write_rows(run, ids(4))
    publish(run)
    (before,) = [path.read_bytes() for path in Path(run.scores).iterdir()]
    write_rows(run, [*ids(4), "stranger"], "again", name="part-0.parquet")

    def lost() -> None:
        raise LockError("another run has taken over the lock")

    with pytest.raises(LockError):
        publish(run, lost)
    assert [path.read_bytes() for path in Path(run.scores).iterdir()] == [before]


def test_a_full_temporary_folder_ends_in_an_error_that_names_tmpdir(tmp_path, monkeypatch):
    run = frozen_run(tmp_path, ids(4))
    write_rows(run, ids(4))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StoreError, match=r"no room for the merged rows .* \(No space left on device\); set TMPDIR"):
        publish(run)
    assert published(run) == []


def test_row_groups_have_at_most_a_thousand_rows(tmp_path):
    run = frozen_run(tmp_path, ids(2_300))
    write_rows(run, ids(2_300))
    publish(run)
    (file,) = Path(run.scores).iterdir()
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert max(groups) <= 1_000
    assert sum(groups) == 2_300


def test_publishing_again_gives_the_same_files_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_PUBLISHED_BYTES", 1)  # a file for every row group
    monkeypatch.setattr(publishing, "ROW_GROUP", 2)
    run = frozen_run(tmp_path, ids(6))
    for first in range(0, 6, 2):
        write_rows(run, ids(6)[first : first + 2])
    publish(run)
    before = {path.name: path.read_bytes() for path in Path(run.scores).iterdir()}
    assert [*sorted(before)] == [f"scores-{number:05d}.parquet" for number in range(3)]
    publish(run)
    assert {path.name: path.read_bytes() for path in Path(run.scores).iterdir()} == before


def test_what_an_attempt_left_that_was_killed_while_publishing_does_not_stay(tmp_path, monkeypatch):
    run = frozen_run(tmp_path, ids(4))
    parts = [write_rows(run, ids(4)[:2]), write_rows(run, ids(4)[2:])]
    with monkeypatch.context() as small_files:
        small_files.setattr(publishing, "_PUBLISHED_BYTES", 1)
        small_files.setattr(publishing, "ROW_GROUP", 2)
        publish(run)
    assert len([*Path(run.scores).iterdir()]) == 2
    for part in parts:
        part.unlink()
    write_rows(run, ids(4))
    publish(run)
    assert sorted(published(run)) == ids(4)


def test_parts_of_two_versions_are_published_with_the_columns_of_both(tmp_path):
    run = frozen_run(tmp_path, ids(6))
    parts = [write_rows(run, ids(6)[start : start + 2]) for start in range(0, 6, 2)]
    first, later, *_ = sorted(parts)
    pq.write_table(pq.read_table(first).drop_columns(["masks"]), first)
    rows = pq.read_table(later)
    pq.write_table(rows.append_column("reader", pa.array(["r"] * rows.num_rows)), later)
    assert publish(run) == {"ok": 6}
    assert sorted(published(run)) == ids(6)
    storage.write(run.report, b'{"run_id": "%b", "fingerprint": "f", "findings": ["Mass"]}' % run.run_id.encode())
    rows = read_scores(run.root.url)
    assert rows["reader"].to_pylist().count("r") == 2
    assert rows["masks"].null_count == 6


def test_a_part_whose_pixels_cannot_be_read_is_deleted_and_the_run_says_so(tmp_path):
    run = frozen_run(tmp_path, ids(2_000))
    part = write_rows(run, ids(2_000))
    spoil(part, "study_digest")
    with pytest.raises(RunError, match="cannot be read"):
        publish(run)
    assert not part.exists()


def spoil(part: Path, column: str) -> None:
    """Overwrite the bytes of one column, and leave the others and the footer as they are."""
    group = pq.read_metadata(part).row_group(0)
    (chunk,) = [
        group.column(number) for number in range(group.num_columns) if group.column(number).path_in_schema == column
    ]
    data = bytearray(part.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    part.write_bytes(bytes(data))
