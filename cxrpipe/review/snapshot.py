"""A score root as it was when it was read, and its answers: pages of a list, one study, its pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxrpipe.records import ASIDE, CompleteRuns, score_schema, united, with_columns_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.review.answers import Choices, Page, Pictures, Row, Summary
from cxrpipe.review.conditions import Condition, after, backwards, before, condition, order, sort_key
from cxrpipe.review.figures import run_figures
from cxrpipe.review.filters import Filter
from cxrpipe.review.loading import Loaded, drop_older_rows, load
from cxrpipe.review.positions import load_positions
from cxrpipe.review.row_files import Place, read_rows
from cxrpipe.runs.forgotten import Forgotten
from cxrpipe.runs.reading_lists import open_list
from cxrpipe.runs.root import ScoreRoot

_PICTURES = ("masks", "heatmaps", "structures")


class Snapshot:
    """One reading of a score root. Threads may share it.

    runs     complete ones of one fingerprint
    scratch  folder for what does not fit in memory. The caller removes it
    """

    def __init__(
        self, root: ScoreRoot, runs: CompleteRuns, table: StudyTable | None, forgotten: Forgotten, scratch: Path
    ) -> None:
        self.loaded = load(runs, table, forgotten, scratch)
        # The figures of a run are those of all its rows, also of rows that a later run has replaced.
        tonight = run_figures(self.loaded, len(runs) - 1)
        before_ = run_figures(self.loaded, len(runs) - 2) if len(runs) > 1 else None
        drop_older_rows(self.loaded)
        ((studies,),) = self.loaded.answers("SELECT count(*) FROM rows")
        self.summary = Summary(tonight, before_, studies, len(runs))
        self._root = root
        self._names = _names(self.loaded)
        self._run_ids = [report.run_id for report in runs]
        self._positions = threading.Lock()
        self._has_positions = False

    # ---- lists --------------------------------------------------------------------------------------------------

    def page(self, filter_: Filter, size: int) -> Page:
        return self._page(filter_, self._condition(filter_), size)

    def disagreeing(self, filter_: Filter, size: int) -> Page:
        """As `page`, the largest disagreement first, with the probability of every member."""
        filter_ = replace(filter_, sort="disagreement", descending=True)
        key = sort_key(filter_, self.loaded)
        page = self._page(filter_, self._condition(filter_).and_(f"{key} IS NOT NULL"), size)
        wanted = {f"member_probs_{finding}" for finding in self.loaded.findings if filter_.finding in (None, finding)}
        members = read_rows(self._places([row["study_id"] for row in page.rows]), wanted.__contains__)
        rows = [row | members[row["study_id"]].to_pylist()[0] for row in page.rows]
        return replace(page, rows=rows)

    def _page(self, filter_: Filter, where: Condition, size: int) -> Page:
        key = sort_key(filter_, self.loaded)
        ((total,),) = self.loaded.answers(f"SELECT count(*) FROM rows WHERE {where.text}", where.parameters)
        # Only the keys are sorted; the other columns of the few rows of a page are looked up afterwards.
        numbers = self._numbers(
            f"{where.text} ORDER BY {order(key, filter_.descending)} LIMIT ? OFFSET ?",
            *where.parameters,
            size,
            size * (filter_.page - 1),
        )
        return Page(self._rows(numbers), total, filter_.page, size)

    def beside(self, filter_: Filter, study_id: str) -> tuple[str | None, str | None]:
        """The studies before and after a study in a list; None where the list ends."""
        key, where = sort_key(filter_, self.loaded), self._condition(filter_)
        found = self.loaded.answers(f"SELECT {key} FROM rows WHERE study_id = ?", [study_id])
        if not found:
            return None, None
        ((value,),) = found
        sides = [
            (before(key, filter_.descending, value, study_id), backwards(key, filter_.descending)),
            (after(key, filter_.descending, value, study_id), order(key, filter_.descending)),
        ]
        previous, following = (
            self.loaded.answers(
                f"SELECT study_id FROM rows WHERE {where.text} AND {side.text} ORDER BY {by} LIMIT 1",
                [*where.parameters, *side.parameters],
            )
            for side, by in sides
        )
        return (previous[0][0] if previous else None), (following[0][0] if following else None)

    def of_patient(self, patient_id: str) -> list[Row]:
        return self._rows(self._numbers("patient_id = ? ORDER BY file DESC, study_id", patient_id))

    def _condition(self, filter_: Filter) -> Condition:
        only = None
        if filter_.list is not None:
            only = open_list(self._root, filter_.list).studies["study_id"].to_pylist()
        if filter_.view_position is not None:
            with self._positions:
                if not self._has_positions:
                    load_positions(self.loaded)
                    self._has_positions = True
        return condition(filter_, self.loaded, only)

    def _numbers(self, where: str, *parameters: Any) -> list[int]:
        """The numbers of rows in `rows`."""
        return [number for (number,) in self.loaded.answers(f"SELECT rowid FROM rows WHERE {where}", [*parameters])]

    def _rows(self, numbers: Sequence[int]) -> list[Row]:
        """The rows of a list with these numbers, in this order."""
        columns = ", ".join(self._names.values())
        found = self.loaded.answers(
            f"SELECT rowid, file, {columns} FROM rows WHERE rowid IN (SELECT unnest(?::BIGINT[]))", [list(numbers)]
        )
        rows = {
            number: dict(zip(self._names, values, strict=True)) | {"run_id": self._run_id(file)}
            for number, file, *values in found
        }
        return [rows[number] for number in numbers]

    def _run_id(self, file: int) -> str:
        return self._run_ids[self.loaded.files[file].run]

    # ---- one study ----------------------------------------------------------------------------------------------

    def study(self, study_id: str) -> Row | None:
        row = self._read(study_id, lambda name: name not in ASIDE)
        return row and row | self._rows(self._numbers("study_id = ?", study_id))[0]

    def pictures(self, study_id: str) -> Pictures | None:
        row = self._read(study_id, _PICTURES.__contains__)
        if row is None:
            return None
        return Pictures(
            masks=row["masks"] or [],
            heatmaps=_named(row["heatmaps"], "finding"),
            structures=_named(row["structures"], "name"),
        )

    def _places(self, study_ids: Sequence[str]) -> list[Place]:
        """Where the rows of these studies lie; studies that the root lacks are left out."""
        found = self.loaded.answers(
            "SELECT study_id, file, row FROM rows WHERE study_id IN (SELECT unnest(?::VARCHAR[]))", [list(study_ids)]
        )
        return [Place(study_id, self.loaded.files[file].url, row) for study_id, file, row in found]

    def _read(self, study_id: str, wants: Callable[[str], bool]) -> Row | None:
        """The columns of a study's row that are wanted; null where its run did not write one."""
        rows = read_rows(self._places([study_id]), wants)
        if not rows:
            return None
        today = score_schema(self.loaded.findings)
        schema = united([pa.schema([field for field in today if wants(field.name)]), rows[study_id].schema])
        (row,) = with_columns_of(schema, rows[study_id]).to_pylist()
        return dict(row)

    # ---- the root -----------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> Choices:
        def distinct(query: str) -> tuple[str, ...]:
            values = self.loaded.answers(f"SELECT DISTINCT {query} AS value FROM rows ORDER BY value")
            return tuple(value for (value,) in values if value is not None)

        return Choices(
            flags=distinct("unnest(flags)"),
            reasons=distinct("reason"),
            run_ids=tuple(reversed(self._run_ids)),
            sexes=distinct("patient_sex") if self.loaded.has_table else (),
        )

    def close(self) -> None:
        self.loaded.connection.close()


def _named(of_views: list[list[dict[str, Any]] | None] | None, name: str) -> list[list[tuple[str, bytes]]]:
    """The pictures of every view, with the name of each."""
    return [[(picture[name], picture["png"]) for picture in of_view or ()] for of_view in of_views or ()]


def _names(loaded: Loaded) -> dict[str, str]:
    """The name of each value in a row of a list → its column in `rows`."""
    names = {name: name for name in ("study_id", "patient_id", "status", "reason", "flags", "n_views", "n_views_ok")}
    for number, finding in enumerate(loaded.findings):
        names |= {f"{name}_{finding}": f"{name}_{number}" for name in ("prob", "votes", "consensus", "disagreement")}
    if loaded.has_table:
        names |= {name: name for name in ("split", "patient_age", "patient_sex")}
        names |= {f"label_{finding}": f"label_{number}" for number, finding in enumerate(loaded.labelled)}
    return names
