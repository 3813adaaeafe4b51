"""Derives rows from stored feature vectors: new heads answer to them, and no image is opened.

A run whose rows hold feature vectors is a source for an ensemble where each member of the ensemble either has the
backbone and the preparation of a member of the run, or is one of its members; and where the segmenters are the same, or
the ensemble has none. What is not an answer of the members is copied: status, views, flags, masks, lung fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.linear_heads import LinearHeads
from cxrpipe.images.flags import FLAGS_VERSION
from cxrpipe.images.letterbox import PREPARATION_VERSION
from cxrpipe.models.card import VECTOR_FIELDS
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.models.out_of_distribution import most_are_far
from cxrpipe.records import ModelReport, RunReport
from cxrpipe.records.score import LARGEST_FEATURE
from cxrpipe.records.vectors import vectors_of
from cxrpipe.scoring.findings import finding_columns
from cxrpipe.scoring.finish import with_none
from cxrpipe.scoring.parts import score_table
from cxrpipe.scoring.prepare import Row
from cxrpipe.scoring.vectors import vector_column

_OF_NETWORKS = {"ood", "lungs_cropped"}
"""Flags that are none of the pixels."""
_OF_SEGMENTERS = ("lung_fraction", "left_fraction", "right_fraction", "mask_quality")


class _Way(NamedTuple):
    """How a member gets its answers from the rows of a run."""

    place: int
    """Place of a member of the run."""
    head: LinearHeads | None
    """Applied to the feature vectors of that member. None: the stored answers are the member's own."""


@dataclass(frozen=True)
class StoredVectors:
    """A run with feature vectors, as the source of rows for an ensemble."""

    report: RunReport
    ensemble: Ensemble
    ways: tuple[_Way, ...]
    """Of each member of the ensemble."""

    def usable(self, rows: pa.Table) -> np.ndarray:
        """(N,) bool: the rows that hold all that the new rows need."""
        views = scored_views(rows)
        usable = np.ones(rows.num_rows, bool)
        for member, (place, head) in zip(self.ensemble.members, self.ways, strict=True):
            stored = vectors_of(rows["feature_vectors"], place)
            known = member.card.embedding
            if head is None and known is None and not len(stored.values):  # a member without vectors, such as ONNX
                continue
            whole = (np.abs(stored.values) < LARGEST_FEATURE).all(axis=1)
            usable &= np.bincount(stored.study[whole], minlength=rows.num_rows) == views
            if known is not None and stored.values.shape[1] != len(known.mean):
                usable[views > 0] = False
        if self._has_more_intensities:
            usable &= [self._says_nothing_of_pixels(row) for row in rows.select(["flags", "views"]).to_pylist()]
        return usable

    @property
    def _has_more_intensities(self) -> bool:
        """Whether flags and blank views of the run may be those of an intensity that the ensemble has not."""
        return _intensities(self.report) != {preparation.intensity for preparation in self.ensemble.preparations}

    @staticmethod
    def _says_nothing_of_pixels(row: Row) -> bool:
        return set(row["flags"]) <= _OF_NETWORKS and all(view["reason"] != "blank" for view in row["views"])

    def derive(self, rows: pa.Table) -> pa.Table:
        """The rows that the ensemble would give. All rows are usable."""
        views = scored_views(rows)
        stored = [vectors_of(rows["feature_vectors"], place).values for place, _ in self.ways]
        listed = rows.drop_columns([name for name in ("feature_vectors", "heatmaps") if name in rows.column_names])
        old = listed.to_pylist()
        probs = self.ensemble.by_finding(
            [
                head.probs(vectors) if head else self._stored_answers(old, place, member)
                for (place, head), vectors, member in zip(self.ways, stored, self.ensemble.members, strict=True)
            ]
        )  # (K, ΣV, F)
        columns = finding_columns(self.ensemble, probs, views)
        if self.ensemble.embed:
            columns["feature_vectors"] = vector_column([each if len(each) else None for each in stored], old, views)
        new = self._rows(old, with_none(probs.swapaxes(0, 1)), self._far(stored))
        return score_table(new, self.ensemble.findings, columns, embed=self.ensemble.embed)

    def _stored_answers(self, rows: list[Row], place: int, member: ModelFolder) -> np.ndarray:
        """(ΣV, F) the answers of a member of the run to the scored views, for the findings of the member."""
        columns = [self.report.findings.index(finding) for finding in member.card.findings]
        answers = [
            [view["member_probs"][place][column] for column in columns]
            for row in rows
            for view in row["views"]
            if view["member_probs"] is not None
        ]
        return np.array(answers, np.float32).reshape(len(answers), len(columns))  # None → nan

    def _far(self, stored: list[np.ndarray]) -> np.ndarray | None:
        """(ΣV,) bool: the views that get the flag `ood`.

        An embedding is the average of a feature map, which is the feature vector of every model whose card has one.
        """
        return most_are_far(
            (vectors.astype(np.float32), member.card.embedding)
            for vectors, member in zip(stored, self.ensemble.members, strict=True)
            if member.card.embedding and len(vectors)
        )

    def _rows(self, rows: list[Row], probs: list[Any], far: np.ndarray | None) -> Iterator[Row]:
        """The columns that are not those of findings."""
        number = 0
        kept = _OF_NETWORKS - {"ood"} if self.ensemble.segmenters else set()
        for row in rows:
            flags = {flag for flag in row["flags"] if flag not in _OF_NETWORKS or flag in kept}
            views = []
            for view in row["views"]:
                if view["status"] == "ok":
                    view = view | {"member_probs": probs[number]}
                    flags |= {"ood"} if far is not None and far[number] else set()
                    number += 1
                views.append(view if self.ensemble.segmenters else view | dict.fromkeys(_OF_SEGMENTERS))
            new = row | {"fingerprint": self.ensemble.fingerprint, "flags": sorted(flags), "views": views}
            yield new if self.ensemble.segmenters else new | {"masks": None, "structures": None}


def vector_sources(reports: Sequence[RunReport], ensemble: Ensemble) -> Iterator[StoredVectors]:
    """The runs from whose feature vectors rows of the ensemble can be derived, in their order."""
    if ensemble.explain or ensemble.tta or not any(member.card.backbone for member in ensemble.members):
        return
    heads: dict[str, LinearHeads] = {}
    for report in reports:
        places = _places(report, ensemble)
        if places is None:
            continue
        ways = []
        for member, (place, is_same) in zip(ensemble.members, places, strict=True):
            if not is_same and member.url not in heads:
                heads[member.url] = read_heads(member)
            ways.append(_Way(place, None if is_same else heads[member.url]))
        yield StoredVectors(report, ensemble, tuple(ways))


def _places(report: RunReport, ensemble: Ensemble) -> list[tuple[int, bool]] | None:
    """For each member of the ensemble the place of a member of the run, and whether it is the same network.

    None where the run is no source.
    """
    versions = (report.versions.get("preparation"), report.versions.get("flags"))
    if versions != (str(PREPARATION_VERSION), str(FLAGS_VERSION)):
        return None
    if not report.settings.get("embed") or report.settings.get("tta"):
        return None
    wanted = [segmenter.card.view_fields() for segmenter in ensemble.segmenters]
    if wanted and wanted != [segmenter.card for segmenter in report.segmenters]:
        return None
    if not _intensities(report) >= {preparation.intensity for preparation in ensemble.preparations}:
        return None
    places = [_place(report.members, member) for member in ensemble.members]
    return None if None in places else [place for place in places if place is not None]


def _place(members: tuple[ModelReport, ...], member: ModelFolder) -> tuple[int, bool] | None:
    """The member of a run that has the same answers (true), or else the same feature vectors (false)."""
    fields = member.card.view_fields()
    for number, stored in enumerate(members):
        if stored.card == fields:
            return number, True
    for number, stored in enumerate(members):
        same = stored.card and all(stored.card.get(key) == fields.get(key) for key in VECTOR_FIELDS)
        if same and member.card.backbone and stored.vectors_sha256 == member.card.vectors_sha256:
            return number, False
    return None


def _intensities(report: RunReport) -> set[str]:
    return {str(model.card["recipe"]) for model in report.models if model.card}


def scored_views(rows: pa.Table) -> np.ndarray:
    """(N,) int: the number of views of each study that the networks have seen."""
    views = rows["views"].combine_chunks()
    study = pc.list_parent_indices(views).to_numpy()
    scored = pc.equal(pc.struct_field(pc.list_flatten(views), "status"), "ok").to_numpy(zero_copy_only=False)
    return np.bincount(study[scored], minlength=rows.num_rows)


def read_heads(model: ModelFolder) -> LinearHeads:
    """The heads of a model that `probe` made."""
    assert model.card.backbone is not None
    tensors = dict(safetensors.deserialize(model.read_weights()))  # type: ignore[no-untyped-call]
    name = model.card.backbone.head
    try:
        weight, bias = (tensors[f"{name}.{part}"] for part in ("weight", "bias"))
    except KeyError as error:
        raise ConfigError(f"{model.url}: no tensor {error} in its weights, which its card names as the head") from None
    return LinearHeads(*(np.frombuffer(part["data"], "<f4").reshape(part["shape"]) for part in (weight, bias)))
