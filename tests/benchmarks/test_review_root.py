"""The synthetic root on which the reading room is measured is a root as `score` writes it."""

import sys
from pathlib import Path

import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from review_parts import root

from cxrpipe.images import masks
from cxrpipe.records import score_schema
from cxrpipe.records.study_table import StudyTable
from cxrpipe.review.filters import Filter
from cxrpipe.review.rows import Rows
from cxrpipe.runs.root import ScoreRoot


def test_every_study_is_scored_and_catalogued_with_a_mask_and_a_label(tmp_path):
    out, table = str(tmp_path / "scored"), tmp_path / "table" / "studies.parquet"
    root.make(out, table, studies=400, pool=8)
    files = sorted(Path(out).glob("scores/*/*.parquet"))
    assert {pq.read_schema(file) == score_schema(root.FINDINGS) for file in files} == {True}
    with Rows.open(ScoreRoot.at(out), table=StudyTable(str(table))) as rows:
        assert (rows.summary().studies, rows.summary().runs) == (400, 11)
        scored = rows.page(Filter(finding="Mass", label="1", status="ok")).rows[0]
        assert scored["prob_Mass"] is not None
        assert masks.decode(rows.pictures(scored["study_id"]).masks[0]).any()
