"""The examples of docs/query.md run, on a root as `score` writes it."""

import re
from pathlib import Path

import duckdb
import pytest
from builders import nih_table

from cxrpipe.config import ExportConfig, ScoreConfig
from cxrpipe.programs import export
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.runs.engine import loop

pytestmark = pytest.mark.usefixtures("scored_here")
TEXT = (Path(__file__).parents[2] / "docs" / "query.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small, lungs) -> Path:
    """Where the examples are at home: `studies.parquet` and the score root `scored`."""
    folder = tmp_path_factory.mktemp("query")
    table = nih_table(folder, studies=12)
    (folder / "studies.parquet").write_bytes(Path(table.url).read_bytes())
    config = ScoreConfig(
        studies=table.url, models=(small.url,), segmenter=(lungs.url,), out=str(folder / "scored"), embed=True
    )
    assert score_archive(config, loop) == 0
    export.run(ExportConfig(source=config.out, embeddings=str(folder / "vectors.parquet")))
    return folder


def test_sql_runs_on_a_view_that_has_the_rows_that_python_reads(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with duckdb.connect() as database:
        view, *queries = blocks("sql")
        database.execute(view)
        rows = read_scores("scored")
        assert database.execute("SELECT count(*) FROM scores").fetchall() == [(rows.num_rows,)]
        answers = [database.execute(query).fetchall() for query in queries]
    statuses, worklist, *_, by_sex, pairs = answers
    assert statuses == [("ok", None, 12)]
    assert [prob for _, prob, _ in worklist] == sorted((prob for _, prob, _ in worklist), reverse=True)
    assert {row[0] for row in by_sex} <= {"M", "F"}
    distances = [distance for _, _, distance in pairs]
    assert len(pairs) == 20
    assert distances == sorted(distances)


def test_python_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for block in blocks("python"):
        exec(compile(block, "docs/query.md", "exec"), {})
    assert "prob_Pneumonia" in capsys.readouterr().out
    assert (folder / "lungs.png").is_file()
