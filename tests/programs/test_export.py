"""`export`: the newest row of every study as CSV, masks on the image's own grid, and DICOM segmentations read back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from answered import answered_root
from builders import own_table, png, radiograph, segmenter, small_classifier
from dicoms import dicom
from engines import without_models
from readings import verdict

from cxrpipe.archives.index import index
from cxrpipe.config import ExportConfig, ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images import masks
from cxrpipe.programs import export
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

pytestmark = pytest.mark.usefixtures("scored_here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def root(folder, lungs) -> str:
    """Two members and a segmenter on three studies; one has two views of different sizes, one a broken file too."""
    films = {
        "a": [png(radiograph(0))],
        "b": [png(radiograph(1)), png(radiograph(2, 50, 90))],
        "c=1": [png(radiograph(3)), b"junk"],
    }
    table, out = own_table(folder, films), str(folder / "root")
    models = (small_classifier(folder / "m1").url, small_classifier(folder / "m2", seed=1).url)
    assert score_archive(ScoreConfig(studies=table.url, models=models, segmenter=(lungs.url,), out=out), loop) == 0
    return out


def test_csv_has_one_row_per_study_and_lists_as_json(root, tmp_path):
    assert export.run(ExportConfig(source=root, csv=str(tmp_path / "scores.csv"))) == 0
    rows = pd.read_csv(tmp_path / "scores.csv").set_index("study_id")
    scores = {row["study_id"]: row for row in read_scores(root).to_pylist()}
    assert set(rows.index) == set(scores)
    assert not {"masks", "heatmaps"} & set(rows.columns)
    for study_id, score in scores.items():
        assert rows.loc[study_id, "prob_Pneumonia"] == pytest.approx(score["prob_Pneumonia"])
        members = json.loads(rows.loc[study_id, "member_probs_Pneumonia"])
        assert members == pytest.approx(score["member_probs_Pneumonia"])
        assert len(json.loads(rows.loc[study_id, "views"])) == score["n_views"]
    assert rows.loc["c=1", "status"] == "partial"


def test_csv_has_the_labels_of_readers_where_there_are_some(tmp_path):
    root = answered_root(tmp_path / "root", {"Mass": np.linspace(0, 1, 4)[None], "Edema": np.ones((1, 4))})
    reviews = Reviews(ScoreRoot.at(root))
    for reader, word in (("Ada", "agree"), ("Bo", "wrong"), ("Cy", "wrong")):
        reviews.write([verdict("s00003", word, finding="Mass", reader=reader)])
    reviews.write([verdict("s00001", "unsure", finding="Mass")])
    assert export.run(ExportConfig(source=root, csv=str(tmp_path / "out.csv"))) == 0
    rows = pd.read_csv(tmp_path / "out.csv").set_index("study_id")
    assert rows["review_Mass"].to_dict() == pytest.approx(
        {"s00000": np.nan, "s00001": -1, "s00002": np.nan, "s00003": 0}, nan_ok=True
    )
    assert rows.loc["s00003", "readers_Mass"] == 3
    assert "review_Edema" not in rows


def test_numbers_in_lists_have_no_more_digits_than_they_are_worth(root, tmp_path):
    export.run(ExportConfig(source=root, csv=str(tmp_path / "scores.csv")))
    members = pd.read_csv(tmp_path / "scores.csv")["member_probs_Pneumonia"]
    assert max(map(len, members)) < len("[0.1234567, 0.1234567]") + 2


def test_a_root_of_many_runs_is_exported_with_the_newest_row_of_each_study(tmp_path, lungs):
    out = str(tmp_path / "root")
    films = {"a": [png(radiograph(0))], "b": [png(radiograph(1))]}
    for each in (films, films | {"b": [png(radiograph(9))], "c": [png(radiograph(2))]}):
        table = own_table(tmp_path, each)
        assert (
            score_archive(
                ScoreConfig(studies=table.url, segmenter=(lungs.url,), out=out, incremental=True), without_models
            )
            == 0
        )
    export.run(ExportConfig(source=out, csv=str(tmp_path / "scores.csv")))
    rows = pd.read_csv(tmp_path / "scores.csv").set_index("study_id")
    assert sorted(rows.index) == ["a", "b", "c"]
    digests = {study.study_id: study.study_digest for study in table.studies()}
    assert rows["study_digest"].to_dict() == digests


def test_masks_lie_on_the_grid_of_their_view(root, tmp_path, capsys):
    assert export.run(ExportConfig(source=root, masks=str(tmp_path))) == 0
    sizes = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in tmp_path.iterdir()}
    assert sizes == {"a_0.png": (80, 64), "b_0.png": (80, 64), "b_1.png": (50, 90), "c%3D1_0.png": (80, 64)}
    row = next(row for row in read_scores(root).to_pylist() if row["study_id"] == "b")
    written = cv2.imread(str(tmp_path / "b_1.png"), cv2.IMREAD_UNCHANGED) > 0
    np.testing.assert_array_equal(written, masks.on_image(masks.decode(row["masks"][1]), 50, 90))
    assert "Masks: 4 in" in capsys.readouterr().out


def test_an_id_cannot_lead_out_of_the_folder():
    drawn = export.Drawn("../../etc/passwd", 0, np.ones((2, 2), bool), {})
    assert drawn.file(".png") == "..%2F..%2Fetc%2Fpasswd_0.png"


# ---- DICOM ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, StudyTable]:
    """Three studies as DICOM files: one has two views, and one names no series."""
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "archive").mkdir()
    for number, (study, size) in enumerate(
        {"1.2.1": (80, 64), "1.2.2": (90, 70), "1.2.2 ": (64, 80), "1.2.3": (70, 70)}.items()
    ):
        (folder / "archive" / f"IM{number}").write_bytes(
            dicom(
                radiograph(number, *size),
                StudyInstanceUID=study.strip(),
                SeriesInstanceUID=f"{study.strip()}.9" if number < 3 else None,
                SOPInstanceUID=f"{study.strip()}.{number}",
                PatientName="A^B",
            )
        )
    table = str(folder / "studies.parquet")
    index(str(folder / "archive"), table)
    return folder, StudyTable(table)


@pytest.fixture(scope="module")
def hospital(archive, lungs) -> tuple[str, str, StudyTable]:
    """The archive, scored."""
    folder, table = archive
    assert score_archive(ScoreConfig(studies=table.url, segmenter=(lungs.url,), out=str(folder / "root")), loop) == 0
    return str(folder / "root"), str(folder / "archive"), table


STRUCTURES = {"left_lung": "Lung", "heart": "Heart", "right_lung": "Lung", "gizzard": "Anatomical Structure"}


def test_every_structure_is_a_png_and_a_segment_of_its_name(archive, tmp_path):
    hd = pytest.importorskip("highdicom")
    _, table = archive
    anatomy = segmenter(tmp_path / "anatomy", structures=tuple(STRUCTURES))
    out, pngs, segmentations = (str(tmp_path / name) for name in ("root", "png", "seg"))
    assert score_archive(ScoreConfig(studies=table.url, segmenter=(anatomy.url,), out=out), loop) == 0
    assert export.run(ExportConfig(source=out, masks=pngs, dicom_seg=segmentations)) == 0
    assert {path.name for path in Path(pngs).iterdir() if path.name.startswith("1.2.1")} == {
        "1.2.1_0.png",
        *(f"1.2.1_0_{name}.png" for name in STRUCTURES),
    }
    made = hd.seg.segread(f"{segmentations}/1.2.1_0.dcm")
    assert [each.SegmentLabel for each in made.SegmentSequence] == ["Left lung", "Heart", "Right lung", "Gizzard"]
    meanings = [each.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for each in made.SegmentSequence]
    assert meanings == [*STRUCTURES.values()]
    of_segments = made.get_pixels_by_source_instance(made.get_source_image_uids()[0][2:])[0]
    for number, name in enumerate(STRUCTURES):
        written = cv2.imread(f"{pngs}/1.2.1_0_{name}.png", cv2.IMREAD_UNCHANGED) > 0
        assert 0 < written.mean() < 1
        np.testing.assert_array_equal(of_segments[..., number] > 0, written)


def test_dicom_segmentations_read_back_have_the_pixels_of_the_masks(hospital, tmp_path, lungs):
    hd = pytest.importorskip("highdicom")
    root, _, table = hospital
    assert export.run(ExportConfig(source=root, dicom_seg=str(tmp_path / "seg"), masks=str(tmp_path / "png"))) == 0
    found = sorted((tmp_path / "seg").iterdir())
    assert [path.name for path in found] == ["1.2.1_0.dcm", "1.2.2_0.dcm", "1.2.2_1.dcm"]
    sources = {view.sop_instance_uid: study for study in table.studies() for view in study.views}
    for path in found:
        made = hd.seg.segread(path)
        expected = cv2.imread(str(tmp_path / "png" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED) > 0
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array > 0, expected)
        assert (made.Modality, str(made.PatientName), made.SegmentationType) == ("SEG", "A^B", "BINARY")
        reference = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        assert made.StudyInstanceUID == sources[reference].study_id
        (segment,) = made.SegmentSequence
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert segment.SegmentLabel == "Lungs"
        assert algorithm.AlgorithmName == "cxrpipe unet-resnet18"
        assert algorithm.AlgorithmVersion == lungs.card.weights_sha256[:12]


def test_a_source_to_which_nothing_can_refer_is_left_out_and_said(hospital, tmp_path, capsys):
    pytest.importorskip("highdicom")
    export.run(ExportConfig(source=hospital[0], dicom_seg=str(tmp_path)))
    said = capsys.readouterr()
    assert "DICOM segmentations: 3 in" in said.out
    assert "1 could not be used" in said.out
    assert "IM3: has no SeriesInstanceUID" in said.err


def test_a_segmentation_made_again_is_the_same_instance(hospital, tmp_path):
    pytest.importorskip("highdicom")
    uids = []
    for name in ("one", "two"):
        export.run(ExportConfig(source=hospital[0], dicom_seg=str(tmp_path / name)))
        uids.append([pydicom.dcmread(path).SOPInstanceUID for path in sorted((tmp_path / name).iterdir())])
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == 3


def test_sources_that_are_no_dicom_files_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="4 views with masks, and none is a DICOM file"):
        export.run(ExportConfig(source=root, dicom_seg=str(tmp_path / "seg")))
    assert not (tmp_path / "seg").exists()


def test_a_root_without_masks_is_refused(tmp_path, small):
    table, out = own_table(tmp_path, {"a": [png(radiograph())]}), str(tmp_path / "root")
    score_archive(ScoreConfig(studies=table.url, models=(small.url,), out=out), without_models)
    with pytest.raises(ConfigError, match="no masks there; score with --segmenter"):
        export.run(ExportConfig(source=out, masks=str(tmp_path / "masks")))
