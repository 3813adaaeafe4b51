"""Scoring with Ray Data gives what the plain loop gives."""

import functools
from dataclasses import replace
from pathlib import Path

import decoders
import numpy as np
import pyarrow as pa
import pytest
from builders import FINDINGS, classifier, nih_table, radiograph, segmenter
from poisoned import obey_or_decode

from cxrpipe.config import ScoreConfig
from cxrpipe.images import heatmaps
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.on_ray import score as on_ray
from cxrpipe.on_ray import wire
from cxrpipe.programs.score import score_archive
from cxrpipe.records import Study, View, read_scores
from cxrpipe.runs.engine import loop
from cxrpipe.scoring.batch import Predicted
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

pytestmark = pytest.mark.ray

STRUCTURES = ("left_lung", "heart", "right_lung")
PROBS_TOLERANCE = 1e-5  # other batches, other order of additions


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Two members that want different squares and know different findings, and two segmenters that share the squares.

    One of the segmenters names structures.
    """
    folder = tmp_path_factory.mktemp("models")
    low = {FINDINGS[1]: 0.1, "Mass": 0.1}  # so that there are heat maps
    of_others = {"intensity": "xrv", "fit": "center-crop", "resize": "skimage", "channels": 3, "output": "softmax"}
    of_others |= {"outputs": (FINDINGS[1], "", "Mass"), "mean": (0.5, 0.4, 0.45)}
    members = (
        classifier(folder / "a", seed=1, side_px=32).url,
        classifier(folder / "b", seed=2, side_px=64, findings=tuple(low), thresholds=low, **of_others).url,
    )
    segmenters = (
        segmenter(folder / "anatomy", structures=STRUCTURES).url,
        segmenter(folder / "lungs", seed=1, side_px=64).url,
    )
    return {"models": members, "segmenter": segmenters}


@pytest.fixture(scope="module")
def broken_archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of 64 studies: whole images, broken ones, two that end their decoder, and studies with one bad view."""
    folder = tmp_path_factory.mktemp("archive")
    table = nih_table(folder, studies=57)
    lines = ["study_id,path,patient_id,view_position"]
    for study in table.studies():
        name = f"{study.study_id}.png"
        _extract(study.views[0], folder / name, table.seek_points)
        lines.append(f"{study.study_id},{name},{study.patient_id},PA")
    whole = (folder / lines[1].split(",")[1]).read_bytes()
    (folder / "cut.png").write_bytes(whole[:-40])
    (folder / "text.png").write_text("this is no image")
    (folder / "segfault.png").write_bytes(whole + decoders.SEGFAULT)
    (folder / "stuck.png").write_bytes(whole + decoders.STUCK)
    lines += ["cut,cut.png,p1,PA", "text,text.png,p2,PA", "lateral,cut.png,p3,LL"]
    lines += [f"half,{lines[1].split(',')[1]},p4,PA", "half,cut.png,p4,AP"]
    lines += ["crash,segfault.png,p5,PA", "stuck,stuck.png,p6,PA", "late," + lines[1].split(",")[1] + ",p7,PA"]
    lines += ["late,segfault.png,p7,AP"]
    (folder / "table.csv").write_text("\n".join(lines))
    return str(folder / "table.csv")


def _extract(view: View, path: Path, seek_points: str) -> None:
    from cxrpipe.archives.reader import Reader

    with Reader(seek_points) as reader:
        path.write_bytes(reader.read(view))


@pytest.fixture(scope="module")
def both(
    ray_local: None, models: dict, broken_archive: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pa.Table, pa.Table]:
    """The same archive scored by the loop and by Ray, in the order of study ids."""
    tables = []
    for engine in (loop, on_ray.engine):
        out = tmp_path_factory.mktemp("scores")
        how = {"batch_studies": 8, "part_studies": 20, "decode_timeout_s": 5, "precision": "fp32"}
        how |= {"explain": True, "embed": True}
        config = ScoreConfig(archive=broken_archive, out=str(out), **how, **models)
        assert score_archive(config, functools.partial(engine, decode=obey_or_decode)) == 0
        tables.append(read_scores(str(out)).sort_by("study_id"))
    return tables[0], tables[1]


def test_ray_and_the_loop_give_the_same_rows_and_the_same_schema(both: tuple[pa.Table, pa.Table]) -> None:
    by_loop, by_ray = both
    assert by_loop.schema.equals(by_ray.schema)
    exact = [name for name in by_loop.column_names if not name.startswith(("prob", "member_probs", "disagreement"))]
    exact = [name for name in exact if name not in ("views", "heatmaps", "feature_vectors")]
    assert by_loop.select(exact).to_pylist() == by_ray.select(exact).to_pylist()


def test_ray_and_the_loop_give_the_same_probabilities(both: tuple[pa.Table, pa.Table]) -> None:
    for finding in (*FINDINGS, "Mass"):
        by_loop, by_ray = (rows[f"prob_{finding}"].to_numpy() for rows in both)
        assert np.array_equal(np.isnan(by_loop), np.isnan(by_ray))
        np.testing.assert_allclose(by_loop, by_ray, atol=PROBS_TOLERANCE, equal_nan=True)


def test_ray_and_the_loop_draw_the_same_heat_maps(both: tuple[pa.Table, pa.Table]) -> None:
    drawn = 0
    for by_loop, by_ray in zip(*(rows["heatmaps"].to_pylist() for rows in both), strict=True):
        for one, other in zip(by_loop or (), by_ray or (), strict=True):
            assert [each["finding"] for each in one or ()] == [each["finding"] for each in other or ()]
            for mine, theirs in zip(one or (), other or (), strict=True):
                maps = (heatmaps.decode(each["png"]).astype(int) for each in (mine, theirs))
                assert np.abs(np.subtract(*maps)).max() <= 1  # grey level
                drawn += 1
    assert drawn > 10


def test_ray_and_the_loop_keep_the_same_feature_vectors(both: tuple[pa.Table, pa.Table]) -> None:
    for column in zip(*(rows["feature_vectors"].to_pylist() for rows in both), strict=True):
        by_loop, by_ray = ([None if view is None else np.array(view) for view in of_study or ()] for of_study in column)
        assert [view is None for view in by_loop] == [view is None for view in by_ray]
        for one, other in zip(by_loop, by_ray, strict=True):
            if one is not None:
                assert one.shape == (2, 512)
                np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(one).max())


def test_every_structure_of_a_view_that_is_ok_has_a_mask(both: tuple[pa.Table, pa.Table]) -> None:
    for row in both[1].to_pylist():  # that both draw the same is asserted above
        for view, drawn in zip(row["views"], row["structures"] or (None,) * row["n_views"], strict=True):
            names = () if drawn is None else tuple(structure["name"] for structure in drawn)
            assert names == (STRUCTURES if view["status"] == "ok" else ())


def test_every_study_has_one_row_and_every_broken_file_its_reason(both: tuple[pa.Table, pa.Table]) -> None:
    rows = {row["study_id"]: row for row in both[1].to_pylist()}
    assert len(rows) == both[1].num_rows == 64
    broken = ("cut", "text", "lateral", "half", "crash", "stuck", "late")
    assert {name: (rows[name]["status"], rows[name]["reason"]) for name in broken} == {
        "cut": ("failed", "truncated"),
        "text": ("failed", "not_an_image"),
        "lateral": ("rejected", "no_frontal"),
        "half": ("partial", "truncated"),
        "crash": ("failed", "crashed"),
        "stuck": ("failed", "timeout"),
        "late": ("partial", "crashed"),
    }


def test_views_agree_but_for_the_last_digits(both: tuple[pa.Table, pa.Table]) -> None:
    for by_loop, by_ray in zip(*(rows["views"].to_pylist() for rows in both), strict=True):
        for one, other in zip(by_loop, by_ray, strict=True):
            probs = one.pop("member_probs"), other.pop("member_probs")
            assert one == other
            if probs[0] is not None:
                np.testing.assert_allclose(*np.array(probs, np.float32), atol=PROBS_TOLERANCE)  # None → nan


def test_what_goes_over_the_wire_comes_back_as_it_was(models: dict, tmp_path: Path) -> None:
    from builders import png

    ensemble: Ensemble = open_ensemble(models["models"], models["segmenter"])
    (tmp_path / "x.png").write_bytes(png(radiograph()))
    view = View(url=str(tmp_path / "x.png"))
    studies = [Study(study_id="none"), Study(study_id="one", views=(view,)), Study(study_id="two", views=(view, view))]
    prepare = Preparer(None, ensemble, None)
    sent = [prepare(replace(study, study_digest="d")) for study in studies]
    table = wire.prepared_table(sent, ensemble)
    assert wire.rows_of(table) == [each.row for each in sent]
    views, pixels = wire.batch_of(pa.concat_tables([table.slice(0, 2), table.slice(2)]), ensemble)
    assert views.tolist() == [0, 1, 2]
    for preparation in ensemble.preparations:
        expected = np.concatenate([each.pixels[preparation] for each in sent])
        np.testing.assert_array_equal(pixels[preparation], expected)


@pytest.mark.parametrize("views", [[0, 2, 1], [0, 0]])
@pytest.mark.parametrize("slices", [1, 2])
def test_predictions_come_back_from_the_wire_as_they_were(models: dict, views: list[int], slices: int) -> None:
    rng, number, fault = np.random.default_rng(0), sum(views), Fault("KeyError at x.py:1", "", "Traceback")
    known = np.array([[[True, True, False]], [[False, True, True]]])  # of three findings, by the two members
    predictions = Predictions(
        np.where(known, rng.random((2, number, 3), np.float32), np.float32(np.nan)),
        rng.integers(0, 256, (number, 128), dtype=np.uint8),
        rng.random(number, np.float32),
        tuple(rng.random((number, len(FINDINGS), side, side), np.float32) for side in (1, 2)),
        rng.random(number) > 0.5,
        (rng.random((number, 3)).astype(np.float16), None),
        structure_bits=rng.integers(0, 256, (number, len(STRUCTURES), 128), dtype=np.uint8),
    )
    studies = len(views)
    marks = {"predict_s": [0.5] * studies, "predicted_at": [1.5] * studies}
    marks |= {"predicted_by": ["host:1:2"] * studies, "computed_on": ["cpu float32 fused"] * studies}
    sent = Predicted(predictions, np.array(views), (fault, *[None] * (studies - 1)), pa.table(marks))
    prepared = pa.table({"study_id": [*"abc"][:studies], "row": [b"row"] * studies})
    table = wire.predicted_table(prepared, sent)
    if slices == 2:
        table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    received = wire.predicted_of(table, open_ensemble(models["models"], models["segmenter"], embed=True))
    assert (received.views.tolist(), received.faults, received.marks.to_pydict()) == (views, sent.faults, marks)
    of_views = ("probs", "mask_bits", "expected_dice", "out_of_distribution", "structure_bits")
    for name in of_views if number else ("probs",):
        np.testing.assert_array_equal(getattr(received.predictions, name), getattr(predictions, name))
    for one, other in zip(received.predictions.maps if number else (), predictions.maps, strict=bool(number)):
        np.testing.assert_array_equal(one, other)
    if number:
        vectors, none = received.predictions.features
        np.testing.assert_array_equal(vectors, predictions.features[0])
        assert (vectors.dtype, none) == (np.float16, None)
