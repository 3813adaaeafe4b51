"""Reading a score root: the newest row of every study, of complete runs and of one fingerprint."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cxrpipe.errors import ConfigError
from cxrpipe.records import read_scores, runs_of, score_schema
from cxrpipe.scoring.rows import score_table


def write_run(
    root: Path, run_id: str, studies: Iterable[str], *, fingerprint: str = "f", complete: bool = True
) -> None:
    """A run as `score` leaves it; every row's detail is the run's id."""
    rows = [
        {
            "study_id": study_id,
            "study_digest": "d",
            "fingerprint": fingerprint,
            "status": "ok",
            "detail": run_id,
            "n_views": 1,
            "n_views_ok": 1,
            "flags": [],
            "views": [],
        }
        for study_id in studies
    ]
    for number in range(2):  # in two files, as large runs are
        file = root / "scores" / f"run={run_id}" / f"scores-{number:05d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = score_schema(["Mass"])
        pq.write_table(score_table(rows[number::2], ["Mass"]).select(schema.names).cast(schema), file)
    if complete:
        account = root / "runs" / run_id / "run.json"
        account.parent.mkdir(parents=True)
        account.write_text(json.dumps({"run_id": run_id, "fingerprint": fingerprint}))


def newest(root: Path, fingerprint: str | None = None) -> dict[str, str]:
    """Study → the run that its row is of."""
    rows = read_scores(str(root), fingerprint)
    return dict(zip(rows["study_id"].to_pylist(), rows["detail"].to_pylist(), strict=True))


def test_every_study_has_its_newest_row(tmp_path):
    write_run(tmp_path, "20250101T000000.000000-aa", ["a", "b", "c"])
    write_run(tmp_path, "20250103T000000.000000-aa", ["c"])
    write_run(tmp_path, "20250102T000000.000000-zz", ["b", "c", "d"])
    assert newest(tmp_path) == {
        "a": "20250101T000000.000000-aa",
        "b": "20250102T000000.000000-zz",
        "c": "20250103T000000.000000-aa",
        "d": "20250102T000000.000000-zz",
    }


def test_a_read_table_has_the_score_schema(tmp_path):
    write_run(tmp_path, "1", ["a"])
    assert read_scores(str(tmp_path)).schema.equals(score_schema(["Mass"]))


def test_runs_that_are_not_complete_are_invisible(tmp_path):
    write_run(tmp_path, "1", ["a"])
    write_run(tmp_path, "2", ["a", "b"], complete=False)
    assert newest(tmp_path) == {"a": "1"}
    assert [run["run_id"] for run in runs_of(str(tmp_path))] == ["1"]


def test_of_several_fingerprints_one_must_be_named(tmp_path):
    write_run(tmp_path, "1", ["a"], fingerprint="old")
    write_run(tmp_path, "2", ["a"], fingerprint="new")
    with pytest.raises(ConfigError, match="new, old"):
        read_scores(str(tmp_path))
    assert newest(tmp_path, "old") == {"a": "1"}
    assert newest(tmp_path, "new") == {"a": "2"}


def test_a_fingerprint_that_is_not_there_is_refused_and_those_that_are_named(tmp_path):
    write_run(tmp_path, "1", ["a"], fingerprint="old")
    with pytest.raises(ConfigError, match="no scores with fingerprint new; it has old"):
        read_scores(str(tmp_path), "new")


def test_a_folder_that_is_no_score_root_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no complete run"):
        read_scores(str(tmp_path))
    assert not any(tmp_path.iterdir())
