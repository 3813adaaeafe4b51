"""The outputs of the networks → score rows: findings, masks as PNG, lung fractions, flags and heat maps, on CPUs."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from cxrpipe.images import flags, heatmaps, masks
from cxrpipe.images.fits import in_letterbox
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.scoring.batch import Predicted
from cxrpipe.scoring.faults import guarded
from cxrpipe.scoring.findings import finding_columns
from cxrpipe.scoring.parts import score_table
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Row, failed_by
from cxrpipe.scoring.vectors import vector_column
from cxrpipe.scoring.work import worker


def finish(
    rows: Sequence[Row], predicted: Predicted, ensemble: Ensemble, clock: Callable[[], float] = time.time
) -> pa.Table:
    """The score rows of N studies, and the columns for the receipt of their part (see `parts`).

    rows  of the same studies, as they were prepared
    """
    started = clock()
    table = guarded(
        lambda: _finished(rows, predicted, ensemble),
        lambda _: _one_by_one(rows, predicted, ensemble),
    )
    ended = clock()
    marks = {
        "finish_s": pa.repeat(pa.scalar((ended - started) / len(rows), pa.float32()), len(rows)),
        "finished_at": pa.repeat(pa.scalar(ended, pa.float64()), len(rows)),
        "finished_by": pa.repeat(worker(), len(rows)),
    }
    for name, column in [*marks.items(), *zip(predicted.marks.column_names, predicted.marks.columns, strict=True)]:
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _one_by_one(rows: Sequence[Row], predicted: Predicted, ensemble: Ensemble) -> pa.Table:
    """Each study on its own, after an error: the study that met the error becomes `internal_error`."""

    def alone(number: int) -> pa.Table:
        return guarded(
            lambda: _finished([rows[number]], predicted.of(number), ensemble),
            lambda fault: score_table([failed_by(rows[number], fault)], ensemble.findings, embed=ensemble.embed),
        )

    return pa.concat_tables([alone(number) for number in range(len(rows))])


def _finished(rows: Sequence[Row], predicted: Predicted, ensemble: Ensemble) -> pa.Table:
    rows = [row if fault is None else failed_by(row, fault) for row, fault in zip(rows, predicted.faults, strict=True)]
    columns = finding_columns(ensemble, predicted.predictions.probs, predicted.views)
    views = _Views(ensemble, predicted.predictions, columns)
    ends = np.cumsum(predicted.views)
    rows = [
        views.added_to(row, number, range(end - count, end)) if count else row
        for number, (row, count, end) in enumerate(zip(rows, predicted.views.tolist(), ends.tolist(), strict=True))
    ]
    if predicted.predictions.features is not None:
        columns["feature_vectors"] = vector_column(predicted.predictions.features, rows, predicted.views)
    return score_table(rows, ensemble.findings, columns, embed=ensemble.embed)


class _Views:
    """What follows from the predictions of single views."""

    def __init__(self, ensemble: Ensemble, predictions: Predictions, columns: dict[str, pa.Array]) -> None:
        self._ensemble, self._predictions = ensemble, predictions
        self._probs = with_none(predictions.probs.swapaxes(0, 1))  # ΣV × K × F
        self._squares = predictions.masks
        self._to_explain = _affirmed(ensemble, columns) if predictions.maps is not None else []

    def added_to(self, row: Row, study: int, numbers: Sequence[int]) -> Row:
        """The row of a study with the columns of its views.

        study    its place in the batch
        numbers  the places of its views that are ok
        """
        remaining = iter(numbers)
        numbered = [(view, next(remaining) if view["status"] == "ok" else None) for view in row["views"]]
        lungs = {n: self._lungs(n, view) for view, n in numbered if n is not None} if self._squares is not None else {}
        views = [view if n is None else view | self._columns(n, view, lungs.get(n)) for view, n in numbered]
        row = row | {"views": views}
        flagged = itertools.chain(*(self._flags(n, view, lungs.get(n)) for view, n in numbered if n is not None))
        row["flags"] = sorted({*row["flags"], *flagged})
        if self._squares is not None:
            row["masks"] = [None if n is None else masks.encode(lungs[n]) for _, n in numbered]
        if self._ensemble.structures:
            row["structures"] = [None if n is None else self._structures(n, view) for view, n in numbered]
        if self._predictions.maps is not None:
            explain = self._to_explain[study]
            row["heatmaps"] = [None if n is None else self._heatmaps(n, view, explain) for view, n in numbered]
        return row

    def _columns(self, number: int, view: Row, lungs: np.ndarray | None) -> Row:
        columns: Row = {}
        if self._ensemble.findings:
            columns["member_probs"] = self._probs[number]
        if lungs is not None and self._predictions.expected_dice is not None:
            size = view["rows_px"], view["columns_px"]
            fractions = masks.lung_fractions(lungs, *size)
            columns |= {f"{name}_fraction": value for name, value in fractions._asdict().items()}
            columns["mask_quality"] = masks.quality(lungs, float(self._predictions.expected_dice[number]), *size)
        return columns

    def _flags(self, number: int, view: Row, lungs: np.ndarray | None) -> Iterator[str]:
        if lungs is not None and flags.lungs_cropped(lungs, view["rows_px"], view["columns_px"]):
            yield "lungs_cropped"
        unlike = self._predictions.out_of_distribution
        if unlike is not None and unlike[number]:
            yield "ood"

    def _lungs(self, number: int, view: Row) -> np.ndarray:
        """The mask of one view, (S, S) bool in the letterbox of the whole view."""
        assert self._squares is not None
        return self._drawn(self._squares[number], view)

    def _structures(self, number: int, view: Row) -> list[Row]:
        """The structures of one view, as their masks are stored."""
        squares = self._predictions.structures(number)
        assert squares is not None
        return [
            {"name": name, "png": masks.encode(self._drawn(square, view))}
            for name, square in zip(self._ensemble.structures, squares, strict=True)
        ]

    def _drawn(self, square: np.ndarray, view: Row) -> np.ndarray:
        """A mask of the segmenters in the letterbox of the whole view."""
        frame = self._ensemble.mask_frame
        return in_letterbox(square, frame, view["rows_px"], view["columns_px"], frame.side_px)

    def _heatmaps(self, number: int, view: Row, to_explain: Sequence[int]) -> list[Row]:
        """The heat maps of one view: per finding to explain, the mean of the maps of the members that have one."""
        maps = ((finding, self._maps(number, view, finding)) for finding in to_explain)
        return [
            {"finding": self._ensemble.findings[finding], "png": heatmaps.encode(heatmaps.mean_map(of_members))}
            for finding, of_members in maps
            if of_members
        ]

    def _maps(self, number: int, view: Row, finding: int) -> list[np.ndarray]:
        """The members' maps of one view and finding: (h, w) each, over the letterbox of the whole view."""
        assert self._predictions.maps is not None
        size = view["rows_px"], view["columns_px"]
        return [
            in_letterbox(of_member[number, places.index(finding)], member.card.preparation, *size, heatmaps.SIDE_PX)
            for member, of_member, places in zip(
                self._ensemble.members, self._predictions.maps, self._ensemble.places, strict=True
            )
            if of_member is not None and finding in places
        ]


def with_none(probs: np.ndarray) -> list[list[list[float | None]]]:
    """The numbers of an array as lists, None for nan: a Parquet file has nulls."""
    unknown = np.isnan(probs)
    if unknown.any():
        probs = probs.astype(object)
        probs[unknown] = None
    numbers: list[list[list[float | None]]] = probs.tolist()
    return numbers


def _affirmed(ensemble: Ensemble, columns: dict[str, pa.Array]) -> list[list[int]]:
    """Per study the numbers of the findings to which the consensus says yes."""
    agreed = [columns[f"consensus_{finding}"].to_pylist() for finding in ensemble.findings]
    return [[number for number, yes in enumerate(of_study) if yes] for of_study in zip(*agreed, strict=True)]
