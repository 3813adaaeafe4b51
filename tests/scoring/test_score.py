"""The plain loop: prepared studies → score rows → parts, against torch written out by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
import torchvision
from builders import FINDINGS, png, radiograph, small_classifier

from cxrpipe.archives import phantom
from cxrpipe.images import heatmaps, letterbox, masks, radiographs
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import Study, View, score_schema
from cxrpipe.scoring.batch import Batch, predict
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.parts import score_table, write_part
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Preparer

BY_HAND = 1e-5  # the predictor's memory order is another, so sums round differently
BY_BATCH = 1e-5  # and so they do in batches of another size
UNSURE = 1e-4  # a logit this close to zero may fall to either side

FILMS = {
    "square": [radiograph(0, 40, 40)],
    "tall": [radiograph(1, 90, 50)],
    "two": [radiograph(2, 50, 90), np.tile(np.arange(64, dtype=np.uint8) * 4, (70, 1))],
    "flat": [np.vstack([np.zeros((30, 60), np.uint8), np.full((20, 60), 255, np.uint8)])],
    "small": [radiograph(3, 20, 24)],
}


def studies_of(folder: Path, films: Mapping[str, Sequence[np.ndarray | None]]) -> list[Study]:
    """Study id → its views as files; None is a view that is not there."""
    studies = []
    for study_id, views in films.items():
        paths = [folder / f"{study_id}_{number}.png" for number in range(len(views))]
        for path, film in zip(paths, views, strict=True):
            if film is not None:
                path.write_bytes(png(film))
        made = tuple(View(url=str(path), length=1) for path in paths)
        studies.append(Study(study_id=study_id, patient_id=None, study_digest="d", views=made))
    return studies


def scored(
    studies: Sequence[Study], ensemble: Ensemble, predictor: Predictor, batch_studies: int = 16
) -> dict[str, dict[str, Any]]:
    tables = score(studies, Preparer(None, ensemble, None), predictor, batch_studies=batch_studies)
    return {row["study_id"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Study]:
    return studies_of(tmp_path_factory.mktemp("films"), FILMS | {"gone": [None], "half": [FILMS["tall"][0], None]})


@pytest.fixture(scope="module")
def everyone(members, lungs) -> Ensemble:
    return Ensemble(members, (lungs,))


@pytest.fixture(scope="module")
def predictor(everyone) -> Predictor:
    """Loaded once for all: half of the time of these tests."""
    return Predictor(everyone, "cpu")


@pytest.fixture(scope="module")
def rows(studies, everyone, predictor) -> dict[str, dict[str, Any]]:
    return scored(studies, everyone, predictor)


@pytest.fixture(scope="module")
def swapped(studies, members) -> dict[str, dict[str, Any]]:
    """The members the other way round, and no segmenter."""
    ensemble = Ensemble(members[::-1])
    return scored(studies, ensemble, Predictor(ensemble, "cpu"))


# ---- by hand --------------------------------------------------------------------------------------------------


def tensor(film: np.ndarray, card: Card) -> torch.Tensor:
    """(1, 1, S, S) as the card's network wants it."""
    square = letterbox.prepare(radiographs.Radiograph(film), card.side_px)
    return (torch.from_numpy(square).float()[None, None] / 255 - card.mean) / card.std


def load_into(network: torch.nn.Module, folder: ModelFolder) -> torch.nn.Module:
    network.load_state_dict(safetensors.torch.load_file(Path(folder.url, "model.safetensors")))
    return network.eval()


@pytest.fixture(scope="module")
def networks(members) -> list[torch.nn.Module]:
    made = []
    for folder in members:
        network = torchvision.models.resnet18(num_classes=len(FINDINGS))
        network.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        made.append(load_into(network, folder))
    return made


@torch.inference_mode()
def forward(network: torch.nn.Module, folder: ModelFolder, film: np.ndarray) -> np.ndarray:
    """(F,) probabilities of one view."""
    return network(tensor(film, folder.card)).sigmoid()[0].numpy()


@pytest.mark.parametrize("study_id", [*FILMS])
def test_probabilities_are_those_of_the_networks_run_by_hand(rows, networks, members, study_id):
    for number, (view, film) in enumerate(zip(rows[study_id]["views"], FILMS[study_id], strict=True)):
        by_hand = [forward(network, folder, film) for network, folder in zip(networks, members, strict=True)]
        assert np.abs(np.array(view["member_probs"]) - by_hand).max() < BY_HAND, number


def test_the_networks_tell_films_apart(rows):
    """Else the test above would see no mistake in the order of studies."""
    probs = sorted(rows[study_id]["prob_Pneumonia"] for study_id in FILMS)
    assert np.diff(probs).min() > 10 * BY_HAND


def test_a_mask_is_where_the_unets_logit_is_positive(rows, lungs):
    network = load_into(smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1), lungs)
    for study_id, films in FILMS.items():
        for film, png_bytes in zip(films, rows[study_id]["masks"], strict=True):
            with torch.inference_mode():
                logits = network(tensor(film, lungs.card))[0, 0].numpy()
            sure = np.abs(logits) > UNSURE
            assert np.array_equal(masks.decode(png_bytes)[sure], logits[sure] > 0)


def test_a_study_is_aggregated_calibrated_and_voted_as_the_cards_say(studies, members, lungs, predictor):
    """The contract's order: the rule over the uncalibrated views, then calibration, then the threshold."""
    cards = [
        replace(
            folder.card,
            aggregation={"Pneumonia": "mean"},
            calibration={"Pneumonia": (1.7, number - 0.4)},
            thresholds={"Pneumonia": 0.5, "Cardiomegaly": 0.1 + 0.8 * number},
        )
        for number, folder in enumerate(members)
    ]
    told = tuple(ModelFolder(each.url, card) for each, card in zip(members, cards, strict=True))
    row = scored([study for study in studies if study.study_id == "two"], Ensemble(told, (lungs,)), predictor)["two"]
    views = np.array([view["member_probs"] for view in row["views"]])  # (V, K, F)
    odds = views[..., 0].mean(axis=0)
    odds = odds / (1 - odds)
    pneumonia = [1 / (1 + odds[number] ** -1.7 * np.exp(0.4 - number)) for number in (0, 1)]
    assert row["member_probs_Pneumonia"] == pytest.approx(pneumonia, abs=1e-6)
    assert row["prob_Pneumonia"] == pytest.approx(np.mean(pneumonia), abs=1e-6)
    assert row["votes_Pneumonia"] == sum(prob >= 0.5 for prob in pneumonia)
    assert row["disagreement_Pneumonia"] == pytest.approx(np.std(pneumonia), abs=1e-6)
    cardiomegaly = views[..., 1].max(axis=0)
    assert row["member_probs_Cardiomegaly"] == pytest.approx(cardiomegaly, abs=1e-6)
    assert row["votes_Cardiomegaly"] == 1
    assert row["consensus_Cardiomegaly"] == (cardiomegaly.mean() >= 0.5)


# ---- rows -----------------------------------------------------------------------------------------------------


def test_the_size_of_a_batch_does_not_matter(studies, everyone, predictor, rows):
    others = scored(studies, everyone, predictor, batch_studies=3)
    assert [*others] == [*rows]
    for study_id, row in rows.items():
        other = others[study_id]
        assert (other["status"], other["n_views_ok"]) == (row["status"], row["n_views_ok"])
        for name in row:
            if name.startswith(("prob_", "member_probs_", "disagreement_")) and row[name] is not None:
                assert other[name] == pytest.approx(row[name], abs=BY_BATCH), (study_id, name)


def test_members_come_in_the_order_asked_for(swapped, rows):
    for study_id in FILMS:
        ours, theirs = rows[study_id]["member_probs_Pneumonia"], swapped[study_id]["member_probs_Pneumonia"]
        assert theirs == pytest.approx(ours[::-1], abs=BY_BATCH)


def test_a_failed_study_has_no_numbers(rows, everyone):
    table = score_table([rows["gone"]], FINDINGS)
    (row,) = table.to_pylist()
    numbers = [name for name in row if name.endswith(FINDINGS)]
    assert len(numbers) == 5 * len(FINDINGS)
    assert {name: row[name] for name in numbers} == dict.fromkeys(numbers)
    assert (row["status"], row["masks"], row["heatmaps"]) == ("failed", None, None)
    assert row["views"][0]["member_probs"] is None


def test_a_partial_study_has_the_numbers_of_its_good_view(rows):
    assert rows["half"]["status"] == "partial"
    assert rows["half"]["prob_Pneumonia"] == pytest.approx(rows["tall"]["prob_Pneumonia"], abs=BY_BATCH)
    assert rows["half"]["masks"][1] is None


def test_a_mask_lies_beside_every_view_in_the_segmenters_square(rows):
    for study_id, films in FILMS.items():
        assert [masks.decode(each).shape for each in rows[study_id]["masks"]] == [(32, 32)] * len(films)


def test_lung_fractions_are_of_the_image_and_not_of_the_padding(rows):
    for view, mask in zip(rows["tall"]["views"], rows["tall"]["masks"], strict=True):
        on_image = masks.on_image(masks.decode(mask), view["rows_px"], view["columns_px"])
        assert view["lung_fraction"] == pytest.approx(on_image.mean(), abs=0.03)
        assert view["left_fraction"] + view["right_fraction"] == pytest.approx(view["lung_fraction"], abs=1e-6)


def test_a_segmenter_alone_gives_masks_and_no_findings(studies, lungs, rows):
    ensemble = Ensemble((), (lungs,))
    alone = scored(studies, ensemble, Predictor(ensemble, "cpu"))
    table = score_table(alone.values(), ())
    assert not [name for name in table.column_names if name.startswith("prob_")]
    assert alone["two"]["masks"] == rows["two"]["masks"]
    assert alone["two"]["views"][0]["member_probs"] is None


def test_classifiers_alone_give_probabilities_and_no_masks(swapped, rows):
    assert swapped["two"].get("masks") is None
    assert swapped["two"]["prob_Pneumonia"] == pytest.approx(rows["two"]["prob_Pneumonia"], abs=BY_BATCH)
    assert swapped["two"]["views"][0]["lung_fraction"] is None


# ---- evidence -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explained(studies, everyone) -> dict[str, dict[str, Any]]:
    asked = replace(everyone, explain=True)
    return scored(studies, asked, Predictor(asked, "cpu"))


def test_findings_of_the_consensus_have_a_heat_map_in_every_view_that_is_ok(explained):
    for study_id, films in FILMS.items():
        row = explained[study_id]
        present = [finding for finding in FINDINGS if row[f"consensus_{finding}"]]
        assert [[each["finding"] for each in view] for view in row["heatmaps"]] == [present] * len(films)
        assert all(heatmaps.decode(each["png"]).shape == (64, 64) for view in row["heatmaps"] for each in view)
    assert any(explained[study_id]["heatmaps"][0] for study_id in FILMS)
    assert not all(len(explained[study_id]["heatmaps"][0]) == len(FINDINGS) for study_id in FILMS)


def test_heat_maps_stand_in_the_order_of_the_views(explained):
    assert explained["half"]["heatmaps"][1] is None
    assert explained["half"]["heatmaps"][0] == explained["tall"]["heatmaps"][0]
    assert explained["gone"]["heatmaps"] is None


def test_a_heat_map_is_the_mean_over_the_members_that_know_the_finding_and_have_a_map(tmp_path, studies, members):
    sure = dict.fromkeys((FINDINGS[0], "Mass"), 0.0)
    other = small_classifier(tmp_path / "other", seed=5, findings=tuple(reversed(sure)), thresholds=sure)
    ensemble = Ensemble((members[0], other), explain=True)
    (study,) = [Preparer(None, ensemble, None)(study) for study in studies if study.study_id == "tall"]
    outputs = predict(Batch.of([study], ensemble), Predictor(ensemble, "cpu"))
    first, second = outputs.predictions.maps
    expected = {FINDINGS[0]: [first[0, 0], second[0, 1]], "Mass": [second[0, 0]]}
    assert _stored(finish([study.row], outputs, ensemble)) == {
        finding: heatmaps.encode(heatmaps.mean_map(maps)) for finding, maps in expected.items()
    }
    of_first = outputs._replace(predictions=outputs.predictions._replace(maps=(first, None)))
    assert _stored(finish([study.row], of_first, ensemble)) == {
        FINDINGS[0]: heatmaps.encode(heatmaps.mean_map([first[0, 0]]))
    }


@pytest.mark.parametrize(("thresholds", "drawn"), [((0.0, 0.0, 1.0), True), ((0.0, 1.0, 1.0), False)])
def test_the_votes_and_not_the_mean_decide_who_has_a_heat_map(tmp_path, studies, thresholds, drawn):
    """Two low thresholds outvote a high one, and the mean probability is on the other side of the mean threshold."""
    members = [
        small_classifier(
            tmp_path / str(number), seed=number, findings=FINDINGS[:1], thresholds={FINDINGS[0]: threshold}
        )
        for number, threshold in enumerate(thresholds)
    ]
    ensemble = Ensemble(tuple(members), explain=True)
    (study,) = [Preparer(None, ensemble, None)(study) for study in studies if study.study_id == "tall"]
    outputs = predict(Batch.of([study], ensemble), Predictor(ensemble, "cpu"))
    probs = np.array([[[0.2 if drawn else 0.8]]] * 3, np.float32)  # against a mean threshold of 1/3 or 2/3
    rows = finish([study.row], outputs._replace(predictions=outputs.predictions._replace(probs=probs)), ensemble)
    assert rows[f"consensus_{FINDINGS[0]}"].to_pylist() == [drawn]
    assert bool(_stored(rows)) is drawn


def _stored(rows: pa.Table) -> dict[str, bytes]:
    """Finding → heat map of the only view."""
    return {each["finding"]: each["png"] for each in rows["heatmaps"][0][0].as_py()}


def test_heat_maps_come_back_from_a_part_and_change_no_number(tmp_path, explained, rows):
    write_part(score_table(explained.values(), FINDINGS), str(tmp_path))
    (part,) = tmp_path.iterdir()
    for row in pq.read_table(part).to_pylist():
        assert row["heatmaps"] == explained[row["study_id"]].get("heatmaps")
        assert row["prob_Pneumonia"] == pytest.approx(rows[row["study_id"]]["prob_Pneumonia"], abs=BY_BATCH)


def test_every_mask_has_a_quality(rows):
    for study_id in FILMS:
        for view in rows[study_id]["views"]:
            assert 0 <= view["mask_quality"] <= 1


def test_an_inverted_study_is_flagged_and_scored(tmp_path, everyone, predictor):
    film = phantom.radiograph(np.random.default_rng(0), side_px=128).pixels
    found = scored(studies_of(tmp_path, {"well": [film], "inverted": [film, 255 - film]}), everyone, predictor)
    assert "inverted_suspect" not in found["well"]["flags"]
    assert "inverted_suspect" in found["inverted"]["flags"]
    assert (found["inverted"]["status"], found["inverted"]["prob_Pneumonia"] > 0) == ("ok", True)


def test_a_study_is_flagged_for_what_its_mask_and_embedding_say(tmp_path, everyone, predictor, monkeypatch):
    said = predictor.predict

    def everywhere_lung_and_unlike(pixels: dict) -> Predictions:
        found = said(pixels)
        return found._replace(
            mask_bits=np.full_like(found.mask_bits, 255), out_of_distribution=np.ones(found.probs.shape[1], bool)
        )

    monkeypatch.setattr(predictor, "predict", everywhere_lung_and_unlike)
    (row,) = scored(studies_of(tmp_path, {"odd": FILMS["tall"]}), everyone, predictor).values()
    assert {"lungs_cropped", "ood"} <= set(row["flags"])


def test_a_batch_of_failed_studies_only_is_scored_as_such(studies, everyone, predictor):
    gone = [study for study in studies if study.study_id == "gone"]
    assert scored(gone, everyone, predictor)["gone"]["status"] == "failed"


# ---- parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("findings", [FINDINGS, ()])
def test_a_part_has_the_score_schema_and_nothing_else(tmp_path, rows, findings):
    write_part(score_table(rows.values(), findings), str(tmp_path))
    (part,) = tmp_path.iterdir()
    assert pq.read_schema(part).equals(score_schema(findings))


def test_what_is_read_back_from_a_part_is_what_was_scored(tmp_path, rows):
    write_part(score_table(rows.values(), FINDINGS), str(tmp_path))
    (part,) = tmp_path.iterdir()
    for row in pq.read_table(part).to_pylist():
        given = rows[row["study_id"]]
        assert row["masks"] == given.get("masks")
        assert row["prob_Pneumonia"] == pytest.approx(given.get("prob_Pneumonia"))
        assert [view["status"] for view in row["views"]] == [view["status"] for view in given["views"]]


def test_a_part_written_twice_is_one_file_in_whatever_order_its_rows_come(tmp_path, rows):
    write_part(score_table(rows.values(), FINDINGS), str(tmp_path))
    write_part(score_table([*rows.values()][::-1], FINDINGS), str(tmp_path))
    assert len([*tmp_path.iterdir()]) == 1


def test_parts_of_other_studies_have_other_names(tmp_path, rows):
    for row in rows.values():
        write_part(score_table([row], FINDINGS), str(tmp_path))
    assert len([*tmp_path.iterdir()]) == len(rows)


def test_a_receipt_accounts_for_the_part(tmp_path, rows):
    receipt = write_part(score_table(rows.values(), FINDINGS), str(tmp_path))
    assert receipt.studies == len(rows)
    assert receipt.counts == {"ok": 5, "failed/missing": 1, "partial/missing": 1}
    assert receipt.computed_on == {"cpu float32 fused": 7}
    assert set(receipt.seconds) == {"prepare", "predict", "finish", "land"}
    assert receipt.seconds["predict"] > 0
