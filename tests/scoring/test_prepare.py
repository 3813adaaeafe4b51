"""Bytes → uint8 squares and a status: bad data is a reason, never an exception."""

import hashlib
from dataclasses import replace
from pathlib import Path

import decoders
import numpy as np
import pytest
from builders import FINDINGS, jpeg, png, radiograph
from dicoms import dicom
from poisoned import obey_or_decode

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StoreError
from cxrpipe.images import fits, letterbox, radiographs
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import REASONS, Study, View
from cxrpipe.scoring.prepare import Prepared, Preparer

WHOLE = png(radiograph())


def corrupt(data: bytes) -> bytes:
    """One bit of the pixels turned over."""
    place = data.index(b"IDAT") + 40
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


BROKEN = {
    "missing": None,
    "empty": b"",
    "truncated": WHOLE[:-20],
    "corrupt": corrupt(WHOLE),
    "not_an_image": b"GIF89a, say",
    "too_small": png(radiograph(rows=8, columns=40)),
    "blank": png(np.full((40, 40), 7, np.uint8)),
    "not_chest": dicom(radiograph(), BodyPartExamined="HAND"),
    "no_pixel_data": dicom(),
}


def ensemble(*sides_px: int, views: str = "frontal") -> Ensemble:
    """Members without weights: preparing needs none."""
    cards = [
        Card(task="classify", architecture="resnet18", side_px=side, mean=0.5, std=0.25, findings=FINDINGS, views=views)
        for side in sides_px or (32,)
    ]
    return Ensemble(tuple(ModelFolder(f"/models/{number}", card) for number, card in enumerate(cards)))


def study(folder: Path, *views: bytes | tuple[bytes | None, str] | None) -> Study:
    """A study of real files; None is one that does not exist, a pair gives the view position too."""
    made = []
    for number, view in enumerate(views):
        data, position = view if isinstance(view, tuple) else (view, None)
        path = folder / f"{number}.png"
        if data is not None:
            path.write_bytes(data)
        made.append(View(url=str(path), length=len(data or b""), view_position=position))
    return Study(study_id="s1", patient_id="p1", study_digest="d1", views=tuple(made))


def prepare(given_study: Study, given_ensemble: Ensemble | None = None) -> Prepared:
    return Preparer(None, given_ensemble or ensemble(), None)(given_study)


@pytest.mark.parametrize("reason", [*BROKEN])
def test_a_study_of_one_bad_file_has_its_reason(tmp_path, reason):
    row = prepare(study(tmp_path, BROKEN[reason])).row
    (view,) = row["views"]
    assert (view["status"], view["reason"]) == (REASONS[reason].status, reason)
    assert (row["status"], row["reason"]) == (REASONS[reason].status, reason)
    assert str(tmp_path / "0.png") in row["detail"]
    assert (row["n_views"], row["n_views_ok"]) == (1, 0)


@pytest.mark.parametrize("reason", [*BROKEN])
def test_a_study_with_one_bad_view_of_three_is_partial_and_keeps_the_others(tmp_path, reason):
    other = png(radiograph(seed=1))
    row, pixels = prepare(study(tmp_path, WHOLE, BROKEN[reason], other))
    assert (row["status"], row["reason"]) == ("partial", reason)
    assert [view["status"] for view in row["views"]] == ["ok", REASONS[reason].status, "ok"]
    assert (row["n_views"], row["n_views_ok"]) == (3, 2)
    expected = [letterbox.prepare(radiographs.decode(data, "voi"), 32) for data in (WHOLE, other)]
    assert np.array_equal(pixels[Preparation("voi", 32)], expected)


def test_a_study_has_the_flags_of_all_its_files(tmp_path):
    dark = png(radiograph().astype(np.uint16) * 16)
    part = dicom(radiograph(), BodyPartExamined="TRUNK")
    row = prepare(study(tmp_path, WHOLE, dark, part, dark)).row
    assert row["flags"] == ["body_part_unclear", "few_bits_used", "inverted_suspect"]  # this noise looks inverted
    assert prepare(study(tmp_path, WHOLE)).row["flags"] == []


@pytest.mark.parametrize(("poison", "reason"), [(decoders.SEGFAULT, "crashed"), (decoders.SLEEP, "timeout")])
def test_a_study_with_one_view_of_three_that_ends_its_decoder_is_partial(tmp_path, poison, reason):
    views = study(tmp_path, WHOLE, WHOLE + poison, jpeg(radiograph()))
    with Preparer(None, ensemble(), timeout_s=2, decode=obey_or_decode) as prepare_isolated:
        row, pixels = prepare_isolated(views)
    assert (row["status"], row["reason"], row["n_views_ok"]) == ("partial", reason, 2)
    assert [view["reason"] for view in row["views"]] == [None, reason, None]
    in_process = prepare(replace(views, views=(views.views[0], views.views[2]))).pixels
    assert np.array_equal(pixels[Preparation("voi", 32)], in_process[Preparation("voi", 32)])


def test_a_study_without_any_good_view_is_empty_squares(tmp_path):
    _, pixels = prepare(study(tmp_path, None, b""), ensemble(32, 64))
    assert {key: (value.shape, value.dtype) for key, value in pixels.items()} == {
        Preparation("voi", 32): ((0, 32, 32), np.uint8),
        Preparation("voi", 64): ((0, 64, 64), np.uint8),
    }


def test_a_study_of_blank_and_unreadable_views_has_failed(tmp_path):
    row = prepare(study(tmp_path, BROKEN["blank"], BROKEN["truncated"])).row
    assert (row["status"], row["reason"]) == ("failed", "truncated")


def test_a_whole_study_is_ok_and_has_no_reason(tmp_path):
    row = prepare(study(tmp_path, WHOLE, jpeg(radiograph()))).row
    assert (row["status"], row["reason"], row["detail"], row["flags"]) == ("ok", None, None, [])
    assert (row["study_id"], row["patient_id"], row["study_digest"]) == ("s1", "p1", "d1")
    assert row["fingerprint"] == ensemble().fingerprint


@pytest.mark.parametrize("position", ["LL", "RL", "LATERAL"])
def test_laterals_are_skipped_and_no_failures(tmp_path, position):
    row, pixels = prepare(study(tmp_path, (WHOLE, "PA"), (b"never read", position)))
    assert (row["status"], row["reason"]) == ("ok", None)
    assert [view["status"] for view in row["views"]] == ["ok", "skipped"]
    assert row["views"][1]["reason"] is None
    assert (row["n_views"], row["n_views_ok"]) == (2, 1)
    assert len(pixels[Preparation("voi", 32)]) == 1


@pytest.mark.parametrize("position", ["PA", "AP", None])
def test_what_is_frontal_or_says_nothing_is_scored(tmp_path, position):
    assert prepare(study(tmp_path, (WHOLE, position))).row["views"][0]["status"] == "ok"


def test_a_study_of_laterals_only_is_rejected(tmp_path):
    row = prepare(study(tmp_path, (WHOLE, "LL"), (WHOLE, "RL"))).row
    assert (row["status"], row["reason"]) == ("rejected", "no_frontal")
    assert row["n_views_ok"] == 0


def test_a_bad_frontal_beside_a_lateral_has_failed(tmp_path):
    row = prepare(study(tmp_path, (None, "PA"), (WHOLE, "LL"))).row
    assert (row["status"], row["reason"]) == ("failed", "missing")


def test_members_that_score_all_views_are_given_the_laterals(tmp_path):
    row = prepare(study(tmp_path, (WHOLE, "PA"), (WHOLE, "LL")), ensemble(views="all")).row
    assert row["n_views_ok"] == 2


def test_three_views_of_three_sizes_are_one_row(tmp_path):
    sizes = [(80, 64), (40, 100), (33, 33)]
    films = [png(radiograph(rows=rows, columns=columns)) for rows, columns in sizes]
    row, pixels = prepare(study(tmp_path, *films))
    assert [(view["rows_px"], view["columns_px"]) for view in row["views"]] == sizes
    assert pixels[Preparation("voi", 32)].shape == (3, 32, 32)


def test_a_view_carries_the_hash_of_its_bytes_even_where_they_are_bad(tmp_path):
    views = prepare(study(tmp_path, b"GIF89a", None)).row["views"]
    assert views[0]["sha256"] == hashlib.sha256(b"GIF89a").hexdigest()
    assert "sha256" not in views[1]


def test_a_store_that_stays_away_is_not_the_fault_of_a_study(tmp_path):
    class Away(Reader):
        def read(self, view: View) -> bytes:
            raise StoreError("s3://cxr: the store cannot be used")

    with pytest.raises(StoreError):
        Preparer(None, ensemble(), None, reader=Away)(study(tmp_path, WHOLE))


def test_a_view_is_decoded_once_and_fitted_once_for_all_who_want_the_same(tmp_path, monkeypatch):
    calls: list[object] = []
    decode, fit = radiographs.decode, fits.fitted
    monkeypatch.setattr(radiographs, "decode", lambda *args, **how: calls.append("decode") or decode(*args, **how))
    monkeypatch.setattr(fits, "fitted", lambda film, wanted: calls.append([*wanted]) or fit(film, wanted))
    _, pixels = prepare(study(tmp_path, WHOLE), ensemble(32, 64, 32))
    assert calls == ["decode", [Preparation("voi", 32), Preparation("voi", 64)]]
    assert [*pixels] == [Preparation("voi", 32), Preparation("voi", 64)]
