"""The report of a run, `run.json`: what was scored, by which models, how fast and where.

The report is written last: its presence says that the run is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cxrpipe import storage


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model of a run."""

    url: str
    task: str = "classify"
    architecture: str = ""
    weights_sha256: str = ""
    findings: tuple[str, ...] | None = None
    """The findings that the model knows; none for a segmenter. None: an early version wrote the report, and every
    classifier knows all findings of the run."""
    thresholds: Mapping[str, float] | None = None
    """Finding → threshold of the model. None: an early version wrote the report."""
    archive: str | None = None
    """Url of the archive that the model learned from. None: unknown, or private."""
    split_seed: str | int | None = None
    """Of the study table that the model learned from."""
    source: str | None = None
    """Where the model was adopted from, such as `xrv:densenet121-res224-all`. None: it was trained here."""
    licence: str | None = None
    """SPDX identifier of the licence of the weights. None: unknown."""
    citation: str | None = None
    """The publication to cite. None: unknown."""
    card: Mapping[str, Any] | None = None
    """The fields of its card that decide its answers to a view. None: an early version wrote the report."""
    backbone_archive: str | None = None
    """As `archive` and `split_seed`, of the network under heads that `probe` fitted."""
    backbone_split_seed: str | int | None = None

    def knows(self, finding: str) -> bool:
        """Whether the classifier gives probabilities of the finding, which is one of the run."""
        return self.findings is None or finding in self.findings

    @property
    def vectors_sha256(self) -> str:
        """As that of the card: models that share it have the same feature vectors if their preparation is the same."""
        backbone = self.card.get("backbone") if self.card else None
        return str(backbone[0]) if backbone else self.weights_sha256


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The content of one `run.json`. The names of the fields are the keys of the file, in its order.

    Reports of other versions can be read: a field that the file lacks has its default, an unknown key is ignored.
    """

    run_id: str = ""
    studies: int = 0
    studies_per_second: float | None = None
    """None: every study was scored before, or derived from rows of the same networks."""
    seconds: float = 0.0
    """Wall time of the stages."""
    device: str | None = None
    """`device`, `precision` and `kernels` of most studies; None where nothing was computed."""
    precision: str | None = None
    kernels: str | None = None
    computed_on: Mapping[str, int] = field(default_factory=dict)
    """Device, precision and kernels (`cpu float32 fused`) → studies. Several on a cluster of different machines."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage (`prepare`, `predict`, `finish`, `land`) → seconds, summed over all workers."""
    busy_shares: Mapping[str, float] = field(default_factory=dict)
    """Stage → 0..1: the share of their time for which its workers worked. The busiest stage limits the run."""
    scored_before_resume: int = 0
    """Studies that earlier attempts of this run had scored."""
    derived: int = 0
    """Studies whose rows were derived from rows of the same networks; no image was opened."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """`ok`, `partial/truncated`, `failed/missing` … → studies."""
    fingerprint: str = ""
    """Of everything that decides a row: networks, calibration, thresholds, aggregation."""
    views_fingerprint: str | None = None
    """Of the networks alone: runs that share it gave the same answers to the same views."""
    findings: tuple[str, ...] = ()
    models: tuple[ModelReport, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of `score`, as far as they are not private."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version; `preparation` and `flags`: raised when decoding, fitting or the rules of flags change."""
    start: str = ""
    """`start` and `end`: UTC, ISO 8601."""
    end: str = ""
    forgotten: int = 0
    """Rows that `forget` has removed since. The file has this key only if there are any."""

    @classmethod
    def from_json(cls, content: bytes) -> RunReport:
        facts = _known(cls, json.loads(content))
        facts["findings"] = tuple(facts.get("findings", ()))
        facts["models"] = tuple(_model(model) for model in facts.get("models", ()))
        return cls(**facts)

    def to_json(self) -> bytes:
        facts = asdict(self)
        if not self.forgotten:
            del facts["forgotten"]
        return _pretty(facts)

    @property
    def scored_by(self) -> str:
        """The models and the minute, for people: `first, second, 2026-11-29 20:41`."""
        names = [storage.last_part(model.url) for model in self.models]
        return ", ".join([*names, self.end[:16].replace("T", " ")])

    @property
    def members(self) -> tuple[ModelReport, ...]:
        """In the order of `member_probs_<finding>` and `feature_vectors`: all models but the segmenters."""
        return tuple(model for model in self.models if model.task != "segment")

    @property
    def segmenters(self) -> tuple[ModelReport, ...]:
        """None, one, or several that vote."""
        return tuple(model for model in self.models if model.task == "segment")


def count_forgotten(content: bytes, rows: int) -> bytes:
    """The content of `run.json` with `rows` more in `forgotten`. Keys that this version does not know stay."""
    facts = json.loads(content)
    facts["forgotten"] = facts.get("forgotten", 0) + rows
    return _pretty(facts)


def _model(facts: Mapping[str, Any]) -> ModelReport:
    known = _known(ModelReport, facts)
    findings = known.pop("findings", None)
    return ModelReport(**known, findings=None if findings is None else tuple(findings))


def _known(kind: type[RunReport] | type[ModelReport], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are fields of `kind`."""
    return {member.name: facts[member.name] for member in fields(kind) if member.name in facts}


def _pretty(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, indent=2).encode() + b"\n"
