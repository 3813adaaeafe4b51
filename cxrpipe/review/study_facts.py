"""Everything that the page of one study shows, apart from its pictures, as plain values for the template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxrpipe import storage
from cxrpipe.errors import StoreError, StudyError
from cxrpipe.images.intensity import INTENSITIES
from cxrpipe.records import FLAGS, REASONS, ModelReport, RunReport
from cxrpipe.report.models import origin
from cxrpipe.review.answers import Pictures
from cxrpipe.review.pictures import hex_lines

Row = Mapping[str, Any]
AS_SEEN = {"voi": "as a viewer shows it"}
_LIKE_VOI = ("voi", "nih", "padchest")
"""Intensities that differ in name alone."""


@dataclass(frozen=True, kw_only=True)
class ShownView:
    """One view on the page."""

    number: int
    title: str
    """`View 1 of 2, PA, 2,048 × 2,500 px`"""
    facts: Row
    """Its entry in `views` of the score row."""
    problem: str
    """Why the view was not scored, and what to do; empty for a view that was."""
    has_mask: bool
    heats: Sequence[str]
    """Findings that have a heat map."""
    structures: Sequence[str]
    first_bytes: str
    """Of a view that failed: a dump of the first bytes of its file, or why there is none. Empty for others."""

    @property
    def has_film(self) -> bool:
        """Whether a film may be shown: a view that failed in the run has none."""
        return bool(self.facts["status"] != "failed")


def shown_views(row: Row, pictures: Pictures | None, head: Callable[[int], bytes] | None) -> list[ShownView]:
    """
    head  the first bytes of the file of a view; None: they may not be shown
    """
    count = len(row["views"])
    return [
        ShownView(
            number=number,
            title=_title(view, number, count),
            facts=view,
            problem=explained(view["reason"]) if view["reason"] else "",
            has_mask=bool(pictures and pictures.masks[number : number + 1] not in ([], [None])),
            heats=_names(pictures.heatmaps if pictures else [], number),
            structures=_names(pictures.structures if pictures else [], number),
            first_bytes=first_bytes(head, number) if view["status"] == "failed" else "",
        )
        for number, view in enumerate(row["views"])
    ]


def _title(view: Row, number: int, count: int) -> str:
    parts = [f"View {number + 1} of {count}", view["view_position"] or "position unknown"]
    if view["rows_px"]:
        parts.append(f"{view['rows_px']:,} × {view['columns_px']:,} px")
    return ", ".join(parts)


def _names(pairs: Sequence[Sequence[tuple[str, bytes]]], number: int) -> list[str]:
    return [name for name, _ in pairs[number]] if number < len(pairs) else []


def first_bytes(head: Callable[[int], bytes] | None, number: int) -> str:
    if head is None:
        return "not shown: under pseudonyms a page holds nothing of a file's header"
    try:
        return hex_lines(head(number)) or "the file is empty"
    except (StudyError, StoreError) as error:
        return f"no byte can be read now: {error}"


def explained(reason: str) -> str:
    """`truncated` → what it means and what to do."""
    if reason not in REASONS:
        return reason.replace("_", " ")
    known = REASONS[reason]
    return f"{reason.replace('_', ' ')}: {known.meaning}. What to do: {known.what_to_do}."


def explained_flags(row: Row) -> Iterator[tuple[str, str]]:
    """(flag, what was seen and what to do)"""
    for flag in row["flags"] or ():
        known = FLAGS.get(flag)
        yield flag, f"{known.meaning}. What to do: {known.what_to_do}." if known else ""


def intensities(report: RunReport) -> dict[str, str]:
    """Name of an intensity → words for a person: that of a viewer, and those of the models where they differ."""
    choices = dict(AS_SEEN)
    for model in report.models:
        name = str((model.card or {}).get("recipe", "voi"))
        if name in INTENSITIES and name not in _LIKE_VOI:
            choices.setdefault(name, f"as {storage.last_part(model.url)} sees it ({name})")
    return choices


def provenance(row: Row, report: RunReport) -> Iterator[tuple[str, str]]:
    """(name, value) of what made the row."""
    yield "run", f"{row['run_id']}, ended {report.end}"
    yield "fingerprint", row["fingerprint"]
    for model in report.models:
        yield ("segmenter" if model.task == "segment" else "model"), _model(model)
    if report.device:
        yield "computed on", ", ".join(filter(None, (report.device, report.precision, report.kernels)))
    if report.versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield "study digest", row["study_digest"]


def _model(model: ModelReport) -> str:
    parts = [storage.last_part(model.url), model.architecture, f"weights sha256 {model.weights_sha256[:16]}"]
    return "; ".join(filter(None, [", ".join(filter(None, parts)), origin(model)]))


def of_file(view: Row) -> Iterator[tuple[str, str]]:
    """(name, value) of the file of a view, and of its lungs."""
    if view["url"]:
        yield "object", view["url"]
    if view["entry"]:
        yield "entry", view["entry"]
    if view["sha256"]:
        yield "sha256", view["sha256"]
    if view.get("lung_fraction") is not None:
        left, right = view["left_fraction"], view["right_fraction"]
        yield "lungs", f"{view['lung_fraction']:.0%} of the image (left {left:.0%}, right {right:.0%})"
    if view.get("mask_quality") is not None:
        yield "mask quality", f"{view['mask_quality']:.2f} of 1"
