"""Reading lists: samples of the scored studies that are kept, so that verdicts on them speak for all studies.

<root>/reviews/lists/<name>.parquet    study_id, patient_id, stratum, probability, in the order of reading
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation import sampling
from cxrpipe.evaluation.join import thresholds_of
from cxrpipe.evaluation.sampling import Drawn
from cxrpipe.records import CompleteRuns
from cxrpipe.runs.reviews import FOLDER, parquet_bytes
from cxrpipe.runs.root import ScoreRoot

By = Literal["uncertainty", "disagreement", "random", "stratified"]
BYS: tuple[By, ...] = get_args(By)
STRATA = ("negative, far from the threshold", "negative, near", "positive, near", "positive, far from the threshold")
_NEAR = 0.5
"""A study with an uncertainty of at least this is near the threshold."""
_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("stratum", pa.string(), nullable=False),  # one of STRATA; `all` where there are none
        pa.field("probability", pa.float64(), nullable=False),  # of being drawn
    ]
)
_FACTS = b"reading_list"
"""Key in the schema's metadata."""


@dataclass(frozen=True)
class Design:
    """How a reading list was drawn."""

    studies: int
    """Wanted; a smaller population is drawn whole."""
    by: By
    fingerprint: str
    """Of the models whose answers decided the chances."""
    finding: str | None = None
    """None: every study by the finding on which it scores highest."""
    seed: int = 0
    population: int = 0
    """Studies that could be drawn."""
    made: str = ""

    @property
    def name(self) -> str:
        """The same for the same request, so that a list is found again."""
        finding = f"-{quote(self.finding, safe='')}" if self.finding else ""
        return f"{self.by}-{self.studies}{finding}-seed{self.seed}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class ReadingList:
    """A list that was drawn."""

    name: str
    design: Design
    studies: pa.Table
    """study_id, patient_id, stratum, probability; forgotten patients left out."""


def names(root: ScoreRoot) -> list[str]:
    """The reading lists of a score root."""
    files = (storage.last_part(file.url) for file in storage.listing(folder(root)))
    return [name.removesuffix(".parquet") for name in files if name.endswith(".parquet")]


def open_list(root: ScoreRoot, name: str) -> ReadingList:
    """ConfigError where the root has no list of this name."""
    if name not in (known := names(root)):
        raise ConfigError(f"{root.url}: no reading list {name!r}; it has {', '.join(known) or 'none'}")
    rows = storage.read_table(_url(root, name))
    facts = json.loads((rows.schema.metadata or {})[_FACTS])
    rows = rows.filter(pa.array(root.forgotten().is_kept(rows)))
    return ReadingList(name, Design(**facts), rows.replace_schema_metadata(None))


def open_lists(root: ScoreRoot) -> list[ReadingList]:
    """All reading lists of a score root."""
    return [open_list(root, name) for name in names(root)]


def draw_list(
    root: ScoreRoot, runs: CompleteRuns, studies: int, by: By, finding: str | None = None, seed: int = 0
) -> ReadingList:
    """Draw a reading list from the newest rows, or open the list that was drawn for the same request before.

    runs  of one fingerprint, see `CompleteRuns.of`

    The same seed draws the same studies from the same rows. ConfigError where there is nothing to draw from.
    """
    design = Design(studies, by, runs.newest.fingerprint, finding, seed)
    if design.name in names(root):
        return open_list(root, design.name)
    while True:
        rows, answers = _population(root, runs, finding)
        strata = _strata(answers) if by == "stratified" else None
        drawn = _draw(answers, strata, design)
        listed = pa.table(
            {
                "study_id": rows["study_id"],
                "patient_id": rows["patient_id"],
                "stratum": pa.array(["all"] * rows.num_rows if strata is None else [STRATA[place] for place in strata]),
            }
        ).take(drawn.places)
        listed = listed.append_column("probability", pa.array(drawn.probability))
        made = datetime.now(UTC).isoformat(timespec="seconds")
        facts = asdict(design) | {"population": rows.num_rows, "made": made}
        content = listed.cast(_SCHEMA).replace_schema_metadata({_FACTS: json.dumps(facts)})
        storage.write_new(_url(root, design.name), parquet_bytes(content))
        if root.forgotten().is_kept(listed).all():
            return open_list(root, design.name)
        storage.delete(_url(root, design.name))  # a patient was forgotten while the list was drawn


@dataclass(frozen=True)
class _Answers:
    """What the models said of N studies, each by the finding on which it scores highest."""

    uncertainty: np.ndarray  # (N,) float, 0..1
    disagreement: np.ndarray  # (N,) float
    positive: np.ndarray  # (N,) bool, the consensus on any finding


def _population(root: ScoreRoot, runs: CompleteRuns, finding: str | None) -> tuple[pa.Table, _Answers]:
    """Every study with an answer, sorted by id, without forgotten patients; and the answers."""
    known = runs.newest.findings
    if finding is not None and finding not in known:
        raise ConfigError(f"{root.url}: no finding {finding!r} was scored; known are {', '.join(known)}")
    findings = known if finding is None else (finding,)
    columns = [f"{name}_{each}" for each in findings for name in ("prob", "consensus", "disagreement")]
    forgotten = root.forgotten()
    tables = []
    for _, rows in runs.newest_rows(only=["study_id", "patient_id", "status", *columns], at_once=50_000):
        is_scored = pc.is_in(rows["status"], pa.array(["ok", "partial"]))
        rows = rows.filter(pc.and_(is_scored, pa.array(forgotten.is_kept(rows))))
        tables.append(rows.filter(pa.array(_is_answered(rows, findings))))
    population = pa.concat_tables(tables)
    if not population.num_rows:
        raise ConfigError(f"{root.url}: no scored study to draw a reading list from")
    population = population.take(pc.sort_indices(population["study_id"]))
    return population, _answers(population, findings, runs)


def _is_answered(rows: pa.Table, findings: Sequence[str]) -> np.ndarray:
    answered = np.zeros(rows.num_rows, bool)
    for finding in findings:
        answered |= rows[f"consensus_{finding}"].is_valid().to_numpy()
    return answered


def _answers(rows: pa.Table, findings: Sequence[str], runs: CompleteRuns) -> _Answers:
    near, spread, positive = (np.zeros(rows.num_rows, kind) for kind in (float, float, bool))
    for finding in findings:
        probs = _numbers(rows[f"prob_{finding}"])
        near = np.fmax(near, sampling.uncertainty(probs, _threshold(finding, runs)))
        spread = np.fmax(spread, _numbers(rows[f"disagreement_{finding}"]))
        positive |= pc.fill_null(rows[f"consensus_{finding}"], False).to_numpy()
    return _Answers(near, spread, positive)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) float, nan where null."""
    numbers: np.ndarray = pc.cast(column, pa.float64()).to_numpy()
    return numbers


def _threshold(finding: str, runs: CompleteRuns) -> float:
    """The mean threshold of the members that know a finding; 0.5 where a report is older than thresholds."""
    thresholds = thresholds_of([member for member in runs.newest.members if member.knows(finding)], finding)
    middle = 0.5 if thresholds is None or not len(thresholds) else float(thresholds.mean())
    return min(max(middle, 1e-6), 1 - 1e-6)


def _strata(answers: _Answers) -> np.ndarray:
    """(N,) int, the places in STRATA."""
    near = answers.uncertainty >= _NEAR
    return np.where(answers.positive, np.where(near, 2, 3), np.where(near, 1, 0))


def _draw(answers: _Answers, strata: np.ndarray | None, design: Design) -> Drawn:
    rng = np.random.default_rng(design.seed)
    if strata is not None:
        return sampling.draw_from_strata(strata, design.studies, rng)
    if design.by == "random":
        return sampling.draw_at_random(len(answers.positive), design.studies, rng)
    sizes = answers.uncertainty if design.by == "uncertainty" else answers.disagreement
    if design.by == "disagreement" and not sizes.any():
        raise ConfigError("--by disagreement: no members disagree, as those of an ensemble of one; choose another --by")
    return sampling.draw_by_size(sizes, design.studies, rng)


def folder(root: ScoreRoot) -> str:
    """Where the reading lists of a score root lie."""
    return storage.join(root.url, FOLDER, "lists")


def _url(root: ScoreRoot, name: str) -> str:
    return storage.join(folder(root), f"{name}.parquet")
