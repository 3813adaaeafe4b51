"""Single studies of a large table, each found by its id in whichever row group it lies."""

import pyarrow.parquet as pq
import pytest
from builders import table_of

from cxrpipe.records import Study, View
from cxrpipe.records.study_index import StudyIndex
from cxrpipe.records.study_table import StudyTable

IDS = [f"s{number:02}" for number in range(23)]


@pytest.fixture(params=[1, 7, 23, 1000])
def table(request, tmp_path) -> StudyTable:
    """23 studies in row groups of some size."""
    made = table_of(tmp_path, [Study(study_id=name, views=(View(url=f"{name}.png"),), split="test") for name in IDS])
    rows = pq.read_table(made.url)
    pq.write_table(rows, made.url, row_group_size=request.param)
    return StudyTable(made.url)


def test_every_study_is_found_with_its_files(table):
    index = StudyIndex(table)
    assert [index.find(name).views[0].url for name in IDS] == [f"{name}.png" for name in IDS]


def test_an_id_that_the_table_lacks_is_none(table):
    assert StudyIndex(table).find("s") is None


def test_a_study_is_the_one_that_the_table_gives(table):
    (study,) = table.find(["s13"])
    assert StudyIndex(table).find("s13") == study
