"""Prepared studies → score rows: a batch goes through the networks, then each study's row is filled in."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cxrpipe.images import flags, heatmaps, masks
from cxrpipe.models import consensus
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.scoring.prepare import Prepared, Row, failed_by

if TYPE_CHECKING:  # torch takes 700 MB and seconds, and whoever only prepares studies or writes rows needs none of it
    from cxrpipe.scoring.predict import Predictions, Predictor

T = TypeVar("T")


def score_prepared(
    batch: Sequence[Prepared],
    predictor: "Predictor",
    ensemble: Ensemble,
    clock: Callable[[], float] = time.time,
) -> list[Row]:
    """The score rows of a batch of studies, all of whose views go through the networks at once."""
    started = clock()
    predictions = _predict(batch, predictor, ensemble)
    ended = clock()
    for_receipt = {
        "predict_s": (ended - started) / len(batch),
        "predicted_at": ended,
        "computed_on": predictor.computed_on,
    }
    return [
        _finish(prepared._replace(row=prepared.row | for_receipt), of_study, ensemble)
        for prepared, of_study in zip(batch, predictions, strict=True)
    ]


def _predict(batch: Sequence[Prepared], predictor: "Predictor", ensemble: Ensemble) -> "list[Predictions | Fault]":
    """The predictions for each study. A batch that raises is halved until the study that raises is alone."""

    def halved(fault: Fault) -> "list[Predictions | Fault]":
        if len(batch) == 1:
            return [fault]
        middle = len(batch) // 2
        return _predict(batch[:middle], predictor, ensemble) + _predict(batch[middle:], predictor, ensemble)

    return guarded(lambda: _predict_together(batch, predictor, ensemble), halved)


def _predict_together(
    batch: Sequence[Prepared], predictor: "Predictor", ensemble: Ensemble
) -> "list[Predictions | Fault]":
    pixels = {
        preparation: np.concatenate([prepared.pixels[preparation] for prepared in batch])
        for preparation in ensemble.preparations
    }
    predictions = predictor.predict(pixels)  # of ΣV views
    ends = np.cumsum([prepared.row["n_views_ok"] for prepared in batch])
    starts = [0, *ends[:-1]]
    return [predictions.of(slice(start, end)) for start, end in zip(starts, ends, strict=True)]


def _finish(prepared: Prepared, predictions: "Predictions | Fault", ensemble: Ensemble) -> Row:
    """The score row of one study."""
    row = prepared.row
    if not row["n_views_ok"]:
        return row
    if isinstance(predictions, Fault):
        return failed_by(row, predictions)
    squares = prepared.pixels[ensemble.preparations[0]]
    return guarded(lambda: _filled(row, ensemble, predictions, squares), lambda fault: failed_by(row, fault))


def _filled(row: Row, ensemble: Ensemble, predictions: "Predictions", squares: np.ndarray) -> Row:
    """The row with all columns that follow from the predictions.

    predictions  of the study's V views that are ok
    squares      (V, S, S) uint8, those views
    """
    row = row | findings_of(ensemble, predictions.probs)
    number = itertools.count()
    numbers = [next(number) if view["status"] == "ok" else None for view in row["views"]]  # among the V views

    def per_view(of_view: Callable[[int], T]) -> list[T | None]:
        return [None if number is None else of_view(number) for number in numbers]

    sizes = [(view["rows_px"], view["columns_px"]) for view in row["views"] if view["status"] == "ok"]
    columns_of_views = per_view(lambda number: _view_columns(ensemble, predictions, number, sizes[number]))
    row["views"] = [view | (columns or {}) for view, columns in zip(row["views"], columns_of_views, strict=True)]
    views = range(len(squares))
    view_flags = itertools.chain(*(_flags(predictions, view, squares[view], sizes[view]) for view in views))
    row["flags"] = sorted({*row["flags"], *view_flags})
    if (lungs := predictions.masks) is not None:
        row["masks"] = per_view(lambda number: masks.encode(lungs[number]))
    if (maps := predictions.maps) is not None:
        to_explain = _findings_to_explain(ensemble, row)
        row["heatmaps"] = per_view(lambda number: _heatmaps(ensemble, maps, number, to_explain))
    return row


def _view_columns(ensemble: Ensemble, predictions: "Predictions", number: int, size: tuple[int, int]) -> Row:
    """The columns of one view, of `size` rows and columns, that follow from the predictions."""
    columns: Row = {}
    if ensemble.members:
        columns["member_probs"] = predictions.probs[:, number].tolist()
    if predictions.masks is not None and predictions.expected_dice is not None:
        mask = predictions.masks[number]
        fractions = masks.lung_fractions(mask, *size)
        columns |= {f"{name}_fraction": value for name, value in fractions._asdict().items()}
        columns["mask_quality"] = masks.quality(mask, float(predictions.expected_dice[number]), *size)
    return columns


def _flags(predictions: "Predictions", number: int, square: np.ndarray, size: tuple[int, int]) -> Iterator[str]:
    if flags.looks_inverted(square, *size):
        yield "inverted_suspect"
    if predictions.masks is not None and flags.lungs_cropped(predictions.masks[number], *size):
        yield "lungs_cropped"
    if predictions.out_of_distribution is not None and predictions.out_of_distribution[number]:
        yield "ood"


def _findings_to_explain(ensemble: Ensemble, row: Row) -> list[int]:
    """Numbers of the findings that get a heat map: their mean probability reaches the members' mean threshold."""
    thresholds = np.stack([member.card.operating_points for member in ensemble.members]).mean(axis=0)
    return [number for number, finding in enumerate(ensemble.findings) if row[f"prob_{finding}"] >= thresholds[number]]


def _heatmaps(ensemble: Ensemble, maps: tuple[np.ndarray, ...], number: int, to_explain: Sequence[int]) -> list[Row]:
    """The heat maps of one view: per finding to explain, the mean of the members' maps."""
    return [
        {
            "finding": ensemble.findings[finding],
            "png": heatmaps.encode(heatmaps.mean_map([of_member[number, finding] for of_member in maps])),
        }
        for finding in to_explain
    ]


def findings_of(ensemble: Ensemble, probs: np.ndarray) -> Row:
    """The columns of the findings of one study, from the uncalibrated probabilities (K, V, F) of its views."""
    if not ensemble.members:
        return {}
    cards = [member.card for member in ensemble.members]
    by_member = np.stack(
        [
            consensus.calibrate(consensus.aggregate_views(of_member, card.rules), *card.platt)
            for card, of_member in zip(cards, probs, strict=True)
        ]
    )  # (K, F)
    agreed = consensus.combine(by_member[:, None], np.stack([card.operating_points for card in cards]))
    columns: Row = {}
    for number, finding in enumerate(ensemble.findings):
        columns[f"prob_{finding}"] = float(agreed.mean[0, number])
        columns[f"votes_{finding}"] = int(agreed.votes[0, number])
        columns[f"consensus_{finding}"] = bool(agreed.agreed[0, number])
        columns[f"member_probs_{finding}"] = by_member[:, number].tolist()
        columns[f"disagreement_{finding}"] = float(agreed.disagreement[0, number])
    return columns
