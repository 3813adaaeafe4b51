"""One's own table: what it says is kept, and what it cannot mean is refused in one line."""

import io
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogued import IMAGE, found, put, rest, splits_of_patients, studies, table
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrpipe import storage
from cxrpipe.archives.layouts.base import Unmatched
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StudyError
from cxrpipe.storage import join


def test_rows_of_one_study_are_its_views(anywhere):
    put(anywhere, "images/1.png", "images/2.png", "3.png")
    rows = "study_id,path,view_position\ns1,images/1.png,PA\ns1,images/2.png,LL\ns2,3.png,\n"
    every = studies(table(anywhere, rows))
    assert {key: [(v.url, v.view_position) for v in study.views] for key, study in every.items()} == {
        "s1": [(join(anywhere, "images/1.png"), "PA"), (join(anywhere, "images/2.png"), "LL")],
        "s2": [(join(anywhere, "3.png"), None)],
    }


def test_csv_and_parquet_say_the_same(anywhere):
    put(anywhere, "a.png")
    text = "study_id,path,label_Mass,label_Pleural Effusion,patient_age\n7,a.png,1,-1,41\n8,a.png,,0,\n"
    columns = {
        "study_id": pa.array([7, 8]),
        "path": pa.array(["a.png"] * 2),
        "label_Mass": pa.array([1.0, None]),
        "label_Pleural Effusion": pa.array([-1, 0]),
        "patient_age": pa.array([41, None]),
    }
    packed = io.BytesIO()
    pq.write_table(pa.table(columns), packed)
    put(anywhere, "table.parquet", content=packed.getvalue())
    from_csv, from_parquet = studies(table(anywhere, text)), studies(join(anywhere, "table.parquet"))
    assert from_csv == from_parquet
    assert from_csv["7"].labels == {"Mass": 1.0, "Pleural_Effusion": -1.0}
    assert from_csv["8"].labels == {"Mass": None, "Pleural_Effusion": 0.0}
    assert from_csv["7"].patient_age == 41.0


def test_paths_may_lie_above_the_table_or_be_absolute(tmp_path):
    put(str(tmp_path), "above.png", "elsewhere.png")
    rows = f"study_id,path\na,../above.png\nb,{tmp_path}/elsewhere.png\nc,file://{tmp_path}/above.png\n"
    urls = [study.views[0].url for study in studies(table(str(tmp_path / "tables"), rows)).values()]
    assert urls == [f"{tmp_path}/above.png", f"{tmp_path}/elsewhere.png", f"{tmp_path}/above.png"]


def test_masks_name_the_view_that_they_belong_to(tmp_path):
    put(str(tmp_path), "1.png", "2.png", "m1.png", "m2.png")
    study = studies(table(str(tmp_path), "study_id,path,mask_path\ns,1.png,\ns,2.png,m2.png\n"))["s"]
    assert [(mask.url, mask.view) for mask in study.mask_views] == [(f"{tmp_path}/m2.png", 1)]


def test_a_view_that_is_not_there_is_kept_as_missing(anywhere):
    study = studies(table(put(anywhere, "1.png"), "study_id,path\ns,1.png\ns,2.png\n"))["s"]
    reader = Reader("none")
    assert reader.read(study.views[0]) == IMAGE
    with pytest.raises(StudyError) as error:
        reader.read(study.views[1])
    assert error.value.reason == "missing"


def test_objects_of_a_table_are_listed_and_not_asked_for_one_by_one(anywhere, monkeypatch):
    """Which a store charges for, and takes 20 ms each."""
    monkeypatch.setattr("cxrpipe.archives.layouts.table._FEW", 4)
    archive = table(
        put(anywhere, *(f"x/{n}.png" for n in range(6)), "x/other.png"),
        "study_id,path\n" + "".join(f"s{n},x/{n}.png\n" for n in range(7)),
    )
    stat, asked = storage.stat, []
    monkeypatch.setattr(storage, "stat", lambda url: asked.append(url.removeprefix(f"{anywhere}/")) or stat(url))
    every = found(archive)
    assert [each for each in every if isinstance(each, Unmatched)] == [Unmatched("s6")]
    assert [study.views[0].length for study in every[:6]] == [len(IMAGE)] * 6
    if storage.is_s3(anywhere):
        assert asked == ["x/6.png"]


def test_a_study_of_which_nothing_is_there_is_a_label_without_a_file(anywhere):
    archive = table(put(anywhere, "1.png"), "study_id,path\ns,1.png\ngone,2.png\ngone,3.png\n")
    assert rest(archive) == [Unmatched("gone")]


def test_columns_that_nobody_asked_for_are_no_matter(tmp_path):
    archive = table(put(str(tmp_path), "1.png"), 'study_id,note,path\ns,"a, b",1.png\n')
    assert list(studies(archive)) == ["s"]


def test_the_split_of_a_table_stands_and_the_rest_is_split_by_hash(tmp_path):
    rows = ["study_id,path,split", "a,1.png,test", "b,1.png,valid", *(f"{n},1.png," for n in range(60))]
    every = studies(table(put(str(tmp_path), "1.png"), "\n".join(rows)))
    assert (every["a"].split, every["b"].split) == ("test", "valid")
    assert {study.split for study in every.values()} == {"train", "valid", "test"}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=40), st.integers(0, 99))
def test_no_patient_of_a_table_is_in_two_splits(rows, seed):
    """Whether or not a row names the split of its patient."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            f"{number},1.png,p{patient},{('train', 'valid', 'test')[patient % 3] if named else ''}"
            for number, (patient, named) in enumerate(rows)
        ]
        archive = table(put(folder, "1.png"), "\n".join(["study_id,path,patient_id,split", *lines]))
        assert all(len(part) == 1 for part in splits_of_patients(archive, seed=seed).values())


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("study_id,path,label_Mass\ns,1.png,maybe\n", r"study s: label 'maybe'; expected 1, 0, -1"),
        ("study_id,path,split\ns,1.png,holdout\n", r"study s: split 'holdout'; expected train, valid or test"),
        ("study_id,path\ns,1.png\n,1.png\n", r"line 3 has no study_id"),
        ("study_id,path\ns,\n", r"line 2 has no path"),
        ("study_id;path\ns;1.png\n", r"line 2 has no study_id and no path"),
        ("study_id,path\ns,1.png,more\n", r"line 2 has more cells than the header"),
        ("study_id,path\ns,ftp://host/1.png\n", r"ftp://host/1\.png: expected s3://"),
        ("study_id,path,label_Mass\ns,1.png,0\ns,1.png,1\n", r"study s: label_Mass is 0 and 1"),
        ("study_id,path,patient_id\ns,1.png,a\ns,1.png,b\n", r"study s: patient_id is a and b"),
        ("study_id,path,patient_id,split\ns,1.png,p,test\nt,1.png,p,train\n", r"patient p is in test and in train"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_in_one_line(tmp_path, rows, complaint):
    archive = table(put(str(tmp_path), "1.png"), rows)
    with pytest.raises(ConfigError, match=complaint) as error:
        found(archive)
    assert "\n" not in str(error.value)


def test_a_label_may_stand_in_one_row_of_its_study(tmp_path):
    archive = table(put(str(tmp_path), "1.png"), "study_id,path,label_Mass\ns,1.png,\ns,1.png,1\n")
    assert studies(archive)["s"].labels == {"Mass": 1.0}


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_bytes_that_are_no_table_are_refused(tmp_path, name):
    archive = join(put(str(tmp_path), name, content=b"PAR1\xff\xfe\x00 not at all"), name)
    with pytest.raises(ConfigError, match=f"{name}: not a"):
        found(archive)
