"""The study table tells what an archive holds, accounts for every file, and changes when the archive does."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import png, radiograph, tar_gz, zipped
from catalogued import IMAGE, NIH_ROWS, kermany, montgomery, nih, put, table

from cxrpipe import __version__, config, storage
from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError
from cxrpipe.images import radiographs
from cxrpipe.programs.index import print_counts, run
from cxrpipe.records.study_table import StudyTable
from cxrpipe.storage import join

OTHER = png(radiograph(seed=1, rows=20, columns=20))


def indexed(archive: str, out: str | Path, **settings: object) -> StudyTable:
    out = join(str(out), "studies.parquet")
    index(archive, out, **settings)
    return StudyTable(out)


def digests(archive: str, out: Path) -> dict[str, str]:
    return {study.study_id: study.study_digest for study in indexed(archive, out).studies()}


# --- The table ---


def test_a_study_read_back_is_the_study_that_was_found(anywhere, tmp_path):
    study = next(indexed(nih(anywhere), tmp_path / "out").studies())
    assert (study.study_id, study.patient_id, study.patient_age, study.patient_sex) == (
        "00000001_000",
        "00000001",
        58.0,
        "M",
    )
    assert study.split in ("train", "valid", "test")
    assert {finding for finding, label in study.labels.items() if label} == {"Cardiomegaly"}
    [view] = study.views
    assert (view.url, view.entry) == (join(anywhere, "images_001.tar.gz"), "images/00000001_000.png")
    assert (view.compression, view.length, view.view_position) == ("gzip", len(IMAGE), "PA")


@pytest.mark.parametrize("hold", ["tree", "zip", "tar.gz"])
def test_every_view_of_a_table_can_be_read_where_it_says(anywhere, hold):
    names = dict.fromkeys(kermany("train"), IMAGE)
    archive = join(anywhere, "archive")
    if hold == "tree":
        put(archive, *names)
    else:
        put(archive, f"a.{hold}", content={"zip": zipped, "tar.gz": tar_gz}[hold](names))
    studies = indexed(archive, join(anywhere, "table"))
    with Reader(studies.seek_points) as reader:
        assert [reader.read(study.views[0]) for study in studies.studies()] == [IMAGE] * len(names)


def test_a_table_of_s3_lies_on_s3_with_all_that_belongs_to_it(anywhere):
    indexed(nih(join(anywhere, "archive")), join(anywhere, "table"))
    names = [found.url.removeprefix(anywhere) for found in storage.listing(join(anywhere, "table"))]
    assert names[:2] + names[3:] == [
        "/table/files.parquet",
        "/table/labels_without_files.parquet",
        "/table/skipped.parquet",
        "/table/studies.parquet",
    ]
    assert names[2].startswith("/table/seek_points/")


def test_the_metadata_say_where_a_table_comes_from(tmp_path):
    studies = indexed(nih(str(tmp_path / "nih")), tmp_path / "out", split_seed=7)
    created = studies.metadata.pop("created")
    assert created.startswith("20")
    assert created.endswith("+00:00")
    findings = json.loads(studies.metadata.pop("findings"))
    assert tuple(findings) == studies.findings
    assert studies.metadata == {
        "schema_version": "1",
        "archive": str(tmp_path / "nih"),
        "layout": "nih",
        "split_seed": "7",
        "cxrpipe": __version__,
    }


def test_findings_stand_in_the_order_of_the_layout(tmp_path):
    archive = table(put(str(tmp_path), "1.png"), "study_id,label_Nodule,path,label_Atelectasis\ns,1,1.png,0\n")
    studies = indexed(archive, tmp_path / "out")
    assert studies.findings == ("Nodule", "Atelectasis")
    assert [name for name in studies.schema.names if name.startswith("label_")] == ["label_Nodule", "label_Atelectasis"]


def test_any_parquet_reader_sees_the_columns_of_the_contract(tmp_path):
    indexed(montgomery(str(tmp_path / "m"), *[["MCUCXR_0001_1"]] * 3), tmp_path / "out")
    [row] = pq.read_table(tmp_path / "out" / "studies.parquet").to_pylist()
    assert row["label_Tuberculosis"] == 1.0
    assert len(row["mask_views"]) == 2
    assert list(row["views"][0]) == [
        "url",
        "entry",
        "offset",
        "length",
        "compression",
        "view_position",
        "sop_instance_uid",
        "pixel_spacing_mm",
        "crc32",
    ]


def test_the_studies_of_one_split_are_those_of_the_column(tmp_path):
    put(str(tmp_path / "a"), *(f"{finding}/{number}.png" for finding in ("NORMAL", "Mass") for number in range(30)))
    studies = indexed(str(tmp_path / "a"), tmp_path / "out")
    parts = {split: {study.study_id for study in studies.studies(split)} for split in ("train", "valid", "test")}
    assert sum(len(part) for part in parts.values()) == len(set().union(*parts.values())) == studies.rows == 60
    assert all(parts.values())


def test_two_indexes_of_one_archive_differ_in_their_time_only(tmp_path):
    nih(str(tmp_path / "nih"))
    rows = [list(indexed(str(tmp_path / "nih"), tmp_path / out).studies()) for out in ("first", "again")]
    assert rows[0] == rows[1]


# --- The account ---


def test_the_account_counts_what_the_files_beside_the_table_list(tmp_path):
    archive = nih(str(tmp_path / "nih"), images=[*list(NIH_ROWS)[:3], "montage.png"], test_list=list(NIH_ROWS)[:2])
    account = index(archive, str(tmp_path / "out" / "studies.parquet"))
    assert (account.studies, account.views, account.unmatched, account.patients) == (3, 3, 1, 2)
    assert account.skipped == {"not named as an NIH image": 1}
    assert account.splits["test"] == 2
    assert account.labels["Cardiomegaly"] == {1.0: 2, 0.0: 1}
    assert pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist() == [
        {
            "url": str(tmp_path / "nih" / "images_001.tar.gz"),
            "entry": "images/montage.png",
            "reason": "not named as an NIH image",
            "detail": None,
        }
    ]
    assert pq.read_table(tmp_path / "out" / "labels_without_files.parquet").to_pylist() == [
        {"study_id": "00000013_005"}
    ]


def test_the_program_prints_its_account(tmp_path, capsys):
    archive = nih(str(tmp_path / "nih"), images=[*list(NIH_ROWS)[:3], "montage.png"])
    assert run(config.IndexConfig(archive=archive, out=str(tmp_path / "out" / "studies.parquet"))) == 0
    printed = capsys.readouterr().out
    assert "3 studies, 2 patients, 3 views" in printed
    assert "Skipped: 1 files (not named as an NIH image)" in printed
    assert "Labels without a file: 1" in printed
    assert f"{tmp_path}/out/studies.parquet" in printed.replace("\n", "")


def test_an_archive_that_knows_no_patients_says_so(tmp_path, capsys):
    archive = table(put(str(tmp_path), "1.png"), "study_id,path\ns,1.png\n")
    print_counts(index(archive, str(tmp_path / "out" / "studies.parquet")))
    assert "1 studies, patients unknown, 1 views" in capsys.readouterr().out


def printed(archive: str, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    print_counts(index(archive, str(out / "studies.parquet")))
    return capsys.readouterr().out


def test_an_archive_without_labels_says_so(tmp_path, capsys):
    said = printed(put(str(tmp_path / "a"), "1.png", "2.png"), tmp_path / "out", capsys)
    assert "No labels" in said
    assert "2 studies name no patient: where the archive has no split, theirs is by study" in said
    assert "Present in no study" not in said


def test_findings_that_no_study_has_are_named(tmp_path, capsys):
    rows = "study_id,path,patient_id,label_Mass,label_Edema,label_Nodule\ns,1.png,p,-1,0,\n"
    said = printed(table(put(str(tmp_path), "1.png"), rows), tmp_path / "out", capsys)
    assert re.search(r"Mass +0 +0 +1 +0\b", said)
    assert "Present in no study: Edema, Nodule" in said
    assert "name no patient" not in said


def test_what_is_odd_is_counted_and_named(tmp_path, capsys):
    rows = "study_id,path,patient_id,view_position,patient_age,patient_sex\n"
    rows += "".join(f"s,{n}.png,p{n},PA,130,F\n" for n in range(7)) + "t,7.png,p0,,,M\n"
    archive = table(put(str(tmp_path), *(f"{n}.png" for n in range(8))), rows)
    said = printed(archive, tmp_path / "out", capsys)
    assert "1 studies have views without a view position: these count as frontal" in said
    assert "7 studies share an id with another patient's" in said
    assert "<study_id>/<patient_id>: s/p0, s/p1, s/p2, s/p3, s/p4, …\n" in said
    assert "7 ages below 0 or above 120 years: taken as unknown: s/p0" in said
    assert "1 patients are of both sexes by their studies: is one id given to several people?: p0" in said


def test_under_pseudonyms_what_is_odd_is_counted_and_not_named(tmp_path, capsys):
    secret = tmp_path / "key"
    secret.write_bytes(bytes(range(32)))
    secret.chmod(0o600)
    rows = "study_id,path,patient_id,label_Mass\nzebra,1.png,p0,1\nzebra,1.png,p1,0\n"
    archive, out = table(put(str(tmp_path / "a"), "1.png"), rows), str(tmp_path / "out" / "studies.parquet")
    print_counts(index(archive, out, pseudonymise=str(secret)))
    said = capsys.readouterr().out
    assert "2 studies share an id with another patient's" in said
    assert "zebra" not in said


def test_identical_files_are_counted_where_their_content_is_known(anywhere, tmp_path, capsys):
    archive = join(anywhere, "archive")
    names = {f"{finding}/{number}.png": IMAGE for finding in ("NORMAL", "Mass") for number in range(20)}
    put(archive, "a.zip", content=zipped(names | {"Mass/99.png": OTHER}))
    assert "Identical files: 1 groups, 40 views; 1 groups in more than one split" in printed(
        archive, tmp_path / "out", capsys
    )
    plain = put(join(anywhere, "plain"), "NORMAL/1.png", "Mass/1.png")
    put(plain, "Mass/2.png", content=OTHER)
    known = storage.is_s3(anywhere)  # a disk knows no content
    assert ("Identical files: 1 groups, 2 views" in printed(plain, tmp_path / "out2", capsys)) is known


# --- What a digest depends on ---


def test_a_plain_file_with_new_bytes_has_a_new_digest(anywhere, tmp_path):
    archive = put(anywhere, "NORMAL/1.png", "Mass/2.png")
    before = digests(archive, tmp_path / "before")
    put(archive, "Mass/2.png", content=OTHER)
    after = digests(archive, tmp_path / "after")
    assert [key for key in before if before[key] != after[key]] == ["Mass/2"]


def test_a_touched_file_has_a_new_digest(tmp_path):
    archive = put(str(tmp_path / "a"), "NORMAL/1.png", "Mass/2.png")
    before = digests(archive, tmp_path / "before")
    os.utime(tmp_path / "a" / "Mass" / "2.png", (1, 1))
    after = digests(archive, tmp_path / "after")
    assert [key for key in before if before[key] != after[key]] == ["Mass/2"]


def test_a_zip_entry_with_another_crc_has_a_new_digest_and_its_neighbours_have_not(anywhere, tmp_path):
    """The zip itself is a new object with another etag: what was in it need not be scored again."""
    files = dict.fromkeys(["NORMAL/1.png", "Mass/2.png", "Mass/3.png"], IMAGE)
    assert len(IMAGE) == len(OTHER)
    put(anywhere, "a.zip", content=zipped(files, method=0))
    before = digests(anywhere, tmp_path / "before")
    put(anywhere, "a.zip", content=zipped(files | {"Mass/3.png": OTHER, "Mass/4.png": IMAGE}, method=0))
    after = digests(anywhere, tmp_path / "after")
    assert {key for key in after if before.get(key) != after[key]} == {"a.zip/Mass/3", "a.zip/Mass/4"}


def test_a_tar_that_is_packed_again_keeps_its_digests(anywhere, tmp_path):
    files = dict.fromkeys(["NORMAL/1.png", "Mass/2.png"], IMAGE)
    put(anywhere, "a.tar.gz", content=tar_gz(files))
    before = digests(anywhere, tmp_path / "before")
    put(anywhere, "a.tar.gz", content=tar_gz({"Mass/0.png": OTHER} | files))
    after = digests(anywhere, tmp_path / "after")
    assert before == {key: after[key] for key in before}


def test_a_new_view_is_a_new_digest_and_a_new_mask_is_not(tmp_path):
    """Masks are not scored."""
    archive = put(str(tmp_path), "1.png", "2.png", "mask.png")
    rows = {"one": "s,1.png,\n", "mask": "s,1.png,mask.png\n", "two": "s,1.png,\ns,2.png,\n"}
    found = {
        name: digests(table(archive, f"study_id,path,mask_path\n{text}"), tmp_path / name)["s"]
        for name, text in rows.items()
    }
    assert found["one"] == found["mask"] != found["two"]


def test_a_digest_does_not_depend_on_the_order_of_views(tmp_path):
    archive = put(str(tmp_path), "1.png", "2.png")
    found = [
        digests(table(archive, f"study_id,path\ns,{first}.png\ns,{second}.png\n"), tmp_path / "out")
        for first, second in ("12", "21")
    ]
    assert found[0] == found[1]


# --- Refusals ---


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda folder: join(folder, "absent"), "nothing there"),
        (lambda folder: put(folder, "notes.txt"), "no known layout"),
        (lambda folder: table(folder, "study_id,path\ns,gone.png\n"), "finds no images"),
        (lambda folder: table(put(folder, "1.png"), "study_id,path,split\na,1.png,\nb,1.png,x\n"), "split 'x'"),
        (lambda folder: put(folder, "a.tar", content=tar_gz({})), "nothing in it can be read"),
    ],
)
def test_a_refusal_leaves_nothing_behind(anywhere, tmp_path, made, complaint):
    with pytest.raises(ConfigError, match=complaint):
        index(made(join(anywhere, "archive")), join(anywhere, "out", "studies.parquet"))
    assert list(storage.listing(join(anywhere, "out"))) == []


def test_a_folder_is_no_name_for_a_table(tmp_path):
    with pytest.raises(ConfigError, match=rf"as in {tmp_path}/studies\.parquet"):
        index(put(str(tmp_path), "NORMAL/1.png", "Mass/1.png"), str(tmp_path))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no study table there"),
        (b"not Parquet at all", "not a study table"),
        (["study_id", "split"], "index it first"),
        (["study_id", "study_digest", "views"], "pandas and DuckDB drop"),
    ],
)
def test_what_is_no_study_table_is_refused(anywhere, tmp_path, content, complaint):
    url = join(anywhere, "studies.parquet")
    if isinstance(content, list):
        some = pq.read_table(self_made(tmp_path)).select(content).replace_schema_metadata()
        pq.write_table(some, tmp_path / "bare.parquet")
        content = (tmp_path / "bare.parquet").read_bytes()
    if content is not None:
        storage.write(url, content)
    with pytest.raises(ConfigError, match=complaint):
        StudyTable(url)


def test_a_part_that_pyarrow_writes_is_a_study_table(tmp_path):
    whole = pq.read_table(self_made(tmp_path))
    pq.write_table(whole.filter(pc.field("label_Mass") == 1), tmp_path / "part.parquet")
    part = StudyTable(str(tmp_path / "part.parquet"))
    assert (part.findings, [study.study_id for study in part.studies()]) == (("Mass",), ["Mass/1"])


def self_made(tmp_path: Path) -> str:
    return indexed(put(str(tmp_path / "a"), "NORMAL/1.png", "Mass/1.png"), tmp_path / "out").url


# --- Real archives ---


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), [("nih", 220), ("ChestXRay2017.zip", 5216), ("montgomery", 72)])
def test_real_views_are_read_through_their_table(real_data: Path, tmp_path: Path, name: str, rows: int):
    studies = indexed(str(real_data / name), tmp_path)
    assert studies.rows == rows
    some = [study for number, study in enumerate(studies.studies()) if number % (rows // 5) == 0]
    with Reader(studies.seek_points) as reader:
        for study in some:
            pixels = radiographs.decode(reader.read(study.views[0]), "voi").pixels
            assert not radiographs.is_blank(pixels)
            for mask in study.mask_views:
                assert radiographs.decode_mask(reader.read(mask)).shape == pixels.shape


def test_real_masks_cover_what_lungs_cover(real_data: Path, tmp_path: Path):
    studies = indexed(str(real_data / "montgomery"), tmp_path)
    with Reader(studies.seek_points) as reader:
        for study in list(studies.studies())[:8]:
            lungs = np.any([radiographs.decode_mask(reader.read(mask)) for mask in study.mask_views], axis=0)
            assert 0.05 < lungs.mean() < 0.6, study.study_id
