"""One's own table: what it says is kept, and what it cannot mean is refused in one line."""

import io
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import zipped
from catalogued import IMAGE, found, put, rest, splits_of_patients, studies, table, why
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrpipe import storage
from cxrpipe.archives.layouts.base import CONTRADICTION, KEPT_APART, Remark, Unmatched
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
    monkeypatch.setattr("cxrpipe.archives.table_objects._FEW", 4)
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
        ("study id;file\ns;1.png\n", r"no column path; the header in line 1 reads 'study id;file'; expected"),
        ("study_id,path\n", r"a header without rows, 'study_id,path'"),
        ("", r"it is empty; expected a header and rows"),
        ("study_id,path, Path\ns,1.png,2.png\n", r"the header has path twice \('path', 'Path'\)"),
        ('study_id,path\ns,"1.png\nt,2.png\n', r"not a CSV file: line 2 and after"),
        ("study_id,path\ns,D:\\cxr\\1.png\n", r"line 2: path 'D:\\\\cxr\\\\1.png' is a place on a Windows machine"),
        ("study_id,path\ns,\\\\nas\\cxr\\1.png\n", r"is a place on a Windows machine"),
        ("study_id,path\ns,/not/here/1.png\n", r"line 2: nothing is at the path '/not/here/1.png'"),
        ("study_id,path,view_position\ns,1.png,supine\n", r"line 2: view_position 'supine'; expected PA, AP, LL, RL"),
        ("study_id,path,view_position\ns,1.png,PA\ns,1.png,LL\n", r"line 3: another view_position for 1.png than in "),
        ("study_id,path,label_Mass,Label mass\ns,1.png,0,1\n", r"two columns of labels for "),
        ("study_id,path\ns,1.png,more\n", r"line 2 has more cells than the header"),
        ("study_id,path\ns,ftp://host/1.png\n", r"ftp://host/1\.png: expected s3://"),
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


WRITTEN = "study_id,path,patient_id,label_Pneumonia\n0001,a.png,007,1\n0002,b.png,008,0\n"


@pytest.mark.parametrize(
    "content",
    [
        WRITTEN.replace(",", ";").encode(),
        WRITTEN.replace(",", "\t").encode(),
        WRITTEN.replace(",", ", ").encode(),
        WRITTEN.replace(",", " , ").encode(),
        WRITTEN.replace("\n", "\r\n").encode(),
        WRITTEN.replace("\n", "\r").encode(),
        WRITTEN.encode("utf-8-sig"),
        WRITTEN.encode("utf-16"),
        b"sep=;\r\n" + WRITTEN.replace(",", ";").encode(),
        WRITTEN.replace("study_id,path", '"Study ID"," PATH"').encode(),
        WRITTEN.replace("0001,a.png", '"0001", "a.png"').encode(),
        (WRITTEN + "\n,,,\n").encode(),
        WRITTEN.replace(",1\n", ",1.0\n").replace(",0\n", ",False\n").encode(),
        WRITTEN.replace("a.png", r".\a.png").encode(),
    ],
    ids=[
        *("semicolons", "tabs", "space after", "spaces", "CRLF", "CR", "BOM", "UTF-16", "sep", "capitals", "quotes"),
        *("empty rows", "floats", "backslash"),
    ],
)
def test_a_table_is_read_as_programs_write_it(tmp_path, content):
    put(str(tmp_path), "a.png", "b.png")
    every = studies(join(put(str(tmp_path), "table.csv", content=content), "table.csv"))
    assert [(s.study_id, s.patient_id, s.labels, s.views[0].url) for s in every.values()] == [
        ("0001", "007", {"Pneumonia": 1.0}, join(str(tmp_path), "a.png")),
        ("0002", "008", {"Pneumonia": 0.0}, join(str(tmp_path), "b.png")),
    ]


def test_an_encoding_that_can_only_be_guessed_is_refused_with_what_to_do(tmp_path):
    content = "study_id,path\nMüller,a.png\n".encode("cp1252")
    with pytest.raises(ConfigError, match=r"line 2 holds the byte 0xfc; .* iconv -f WINDOWS-1252 -t UTF-8 table\.csv"):
        found(join(put(str(tmp_path), "table.csv", content=content), "table.csv"))


def test_the_folder_of_a_table_is_an_archive(anywhere):
    archive = put(anywhere, "a.png", "sub/b.png", "other.txt")
    table(archive, "study_id,path\ns,a.png\nt,sub\\b.png\n")
    assert why(archive) == ("table", "found table.csv")
    assert [study.views[0].url for study in studies(archive).values()] == [
        join(anywhere, "a.png"),
        join(anywhere, "sub/b.png"),
    ]


def test_a_table_in_a_zip_names_what_lies_beside_it(tmp_path):
    files = {"table.csv": b"study_id,path\ns,images/a.png\n", "images/a.png": IMAGE}
    put(str(tmp_path), "mine.zip", content=zipped(files))
    [study] = studies(str(tmp_path / "mine.zip")).values()
    assert Reader("none").read(study.views[0]) == IMAGE


def test_words_for_view_positions_are_understood(tmp_path):
    words = {"pa": "PA", "AP Supine": "AP", "Frontal": None, "LAT": "LATERAL", "left lateral": "LL", "unknown": None}
    rows = "".join(f"s{n},1.png,{word}\n" for n, word in enumerate(words))
    every = studies(table(put(str(tmp_path), "1.png"), "study_id,path,view_position\n" + rows))
    assert [study.views[0].view_position for study in every.values()] == list(words.values())


def test_a_study_id_of_several_patients_is_kept_apart(tmp_path):
    rows = "study_id,path,patient_id,label_Mass\ns,1.png,a,1\ns,2.png,b,0\ns,3.png,,\nt,1.png,,1\nt,2.png,c,\n"
    archive = table(put(str(tmp_path), "1.png", "2.png", "3.png"), rows)
    assert {name: (s.patient_id, len(s.views), s.labels["Mass"]) for name, s in studies(archive).items()} == {
        "s/a": ("a", 1, 1),
        "s/b": ("b", 1, 0),
        "s/-": (None, 1, None),
        "t": ("c", 2, 1),
    }
    assert [each for each in rest(archive) if "apart" in str(each)] == [
        Remark(KEPT_APART, name) for name in ("s/a", "s/b", "s/-")
    ]


def test_labels_that_rows_disagree_on_are_unknown_and_counted(tmp_path):
    rows = "study_id,path,label_Mass,label_Edema,patient_sex\ns,1.png,1,1,M\ns,2.png,0,1.0,male\n"
    archive = table(put(str(tmp_path), "1.png", "2.png"), rows)
    assert studies(archive)["s"].labels == {"Mass": None, "Edema": 1}
    assert studies(archive)["s"].patient_sex == "M"
    assert rest(archive) == [Remark(CONTRADICTION, "s")]


def test_a_view_that_is_listed_twice_is_one_view_with_all_its_masks(tmp_path):
    rows = "study_id,path,mask_path\ns,1.png,left.png\ns,1.png,right.png\ns,./1.png,left.png\n"
    archive = table(put(str(tmp_path), "1.png", "left.png", "right.png"), rows)
    study = studies(archive)["s"]
    assert len(study.views) == 1
    assert [(mask.url.rpartition("/")[2], mask.view) for mask in study.mask_views] == [
        ("left.png", 0),
        ("right.png", 0),
    ]
    assert len(rest(archive)) == 2


def test_an_image_of_two_studies_is_counted(tmp_path):
    archive = table(put(str(tmp_path), "1.png"), "study_id,path\ns,1.png\nt,1.png\n")
    assert [each.example for each in rest(archive)] == [f"{archive}: line 3"]


def test_cells_that_say_nothing_are_empty(tmp_path):
    rows = "study_id,path,patient_id,label_Mass,label_No Finding\ns,1.png,nan,NA,1\nt,1.png,None,,0\n"
    every = studies(table(put(str(tmp_path), "1.png"), rows))
    assert [(study.patient_id, study.labels) for study in every.values()] == [(None, {"Mass": None})] * 2
