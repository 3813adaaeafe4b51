"""Reading a score root: the newest row of every study, of complete runs and of one fingerprint."""

import json
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cxrpipe.config import ExportConfig
from cxrpipe.errors import ConfigError
from cxrpipe.programs import export
from cxrpipe.records import complete_runs, find_score, read_scores, runs_of, score_schema
from cxrpipe.scoring.parts import score_table


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
        account.write_text(json.dumps({"run_id": run_id, "fingerprint": fingerprint, "findings": ["Mass"]}))


def of_a_later_version(root: Path, run_id: str) -> None:
    """Give the first file of a run a column, and its views a field, that this version knows nothing of."""
    file = root / "scores" / f"run={run_id}" / "scores-00000.parquet"
    rows = pq.read_table(file)
    kind = rows.schema.field("views").type.value_type
    wider = pa.list_(pa.struct([*kind, pa.field("tilt", pa.float32())]))
    views = [[{"status": "ok", "tilt": 2.0}]] * rows.num_rows
    rows = rows.set_column(rows.schema.get_field_index("views"), "views", pa.array(views, wider))
    pq.write_table(rows.append_column("reader", pa.array(["r"] * rows.num_rows)), file)


def of_an_earlier_version(root: Path, run_id: str, *lacks: str) -> None:
    """Take columns from the files of a run."""
    for file in (root / "scores" / f"run={run_id}").iterdir():
        pq.write_table(pq.read_table(file).drop_columns(list(lacks)), file)


def newest(root: Path, fingerprint: str | None = None) -> dict[str, str]:
    """Study → the run that its row is of."""
    rows = read_scores(str(root), fingerprint)
    return dict(zip(rows["study_id"].to_pylist(), rows["detail"].to_pylist(), strict=True))


def rows_of(root: Path, place: int) -> pa.Table:
    """All rows of one run of a root."""
    runs = complete_runs(str(root))
    return runs.rows(runs.reports[place])


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
    assert [run.run_id for run in runs_of(str(tmp_path))] == ["1"]


def test_of_several_fingerprints_one_must_be_named(tmp_path):
    write_run(tmp_path, "1", ["a"], fingerprint="old")
    write_run(tmp_path, "2", ["a"], fingerprint="new")
    with pytest.raises(ConfigError, match=r"old \(.*\), new \("):
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


# ---- several versions -----------------------------------------------------------------------------------------


@pytest.fixture
def of_three_versions(tmp_path) -> Path:
    """A root of three nights: an earlier version's, this one's, and a later one's, of which one file is as of today."""
    write_run(tmp_path, "1", ["a", "b"])
    write_run(tmp_path, "2", ["b", "c"])
    write_run(tmp_path, "3", ["d", "e"])
    of_an_earlier_version(tmp_path, "1", "masks", "disagreement_Mass")
    of_a_later_version(tmp_path, "3")
    return tmp_path


def test_runs_of_several_versions_are_united_by_name_with_null_for_what_one_lacks(of_three_versions):
    rows = read_scores(str(of_three_versions)).sort_by("study_id")
    assert rows["study_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert rows["reader"].to_pylist() == [None, None, None, "r", None]
    assert [[view["tilt"] for view in views] for views in rows["views"].to_pylist()] == [[], [], [], [2.0], []]
    assert rows.column_names[:-1] == score_schema(["Mass"]).names


def test_a_column_that_every_run_of_a_root_lacks_is_null(tmp_path):
    write_run(tmp_path, "1", ["a", "b"])
    of_an_earlier_version(tmp_path, "1", "masks", "disagreement_Mass")
    assert read_scores(str(tmp_path)).schema.equals(score_schema(["Mass"]))
    assert find_score(str(tmp_path), "a")[0]["masks"] is None
    assert rows_of(tmp_path, 0)["masks"].null_count == 2


def test_tables_that_are_read_one_by_one_have_one_schema_and_not_what_is_left_out(of_three_versions):
    tables = [rows for _, rows in complete_runs(str(of_three_versions)).newest_rows(without=("masks", "reader"))]
    assert all(rows.schema.equals(tables[0].schema) for rows in tables)
    assert not {"masks", "reader"} & set(tables[0].column_names)


def test_all_rows_of_one_run_are_united_too(of_three_versions):
    rows = rows_of(of_three_versions, 2)
    assert rows["reader"].to_pylist() == ["r", None]


def test_csv_of_several_versions_has_the_columns_of_all(of_three_versions):
    out = of_three_versions / "scores.csv"
    export.run(ExportConfig(source=str(of_three_versions), csv=str(out)))
    rows = pa.csv.read_csv(out).sort_by("study_id")
    assert rows["study_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert rows["reader"].to_pylist() == ["", "", "", "r", ""]


def test_the_documented_sql_reads_several_versions_as_python_does(of_three_versions, monkeypatch):
    monkeypatch.chdir(of_three_versions.parent)
    of_three_versions.rename(of_three_versions.parent / "scored")
    documented = (Path(__file__).parents[2] / "docs" / "query.md").read_text()
    view = documented.split("```sql")[1].split("```")[0]
    with duckdb.connect() as database:
        database.execute(view)
        found = database.execute("SELECT study_id, detail, reader, views FROM scores ORDER BY study_id").fetchall()
    rows = read_scores("scored").sort_by("study_id").select(["study_id", "detail", "reader", "views"])
    assert found == [tuple(row.values()) for row in rows.to_pylist()]
