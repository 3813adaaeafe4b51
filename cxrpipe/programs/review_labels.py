"""Labels of readers for `evaluate` and `calibrate` (--labels reviews): joined, described, and weighted back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.evidence import read_evidence
from cxrpipe.evaluation.figures import LabelPolicy
from cxrpipe.evaluation.join import labelled, with_review_labels
from cxrpipe.evaluation.readers import ReviewFacts, review_facts
from cxrpipe.evaluation.weighted import Sample, WeightedFigures, unread
from cxrpipe.records.verdicts import labels_of
from cxrpipe.runs import reading_lists
from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

HAD_SEEN = "the readers had seen the model's answer, so they agree with it more often than readers who had not"


def read_verdicts(root: str) -> pa.Table:
    """The newest verdicts of the readers of a score root; ConfigError where there are none."""
    verdicts = Reviews(ScoreRoot.at(root)).read()
    if not verdicts.num_rows:
        raise ConfigError(f"{root}: no verdict of a reader there; make some with: cxrpipe review {root}")
    return verdicts


def with_labels_of_readers(joined: pa.Table, verdicts: pa.Table, split: str, root: str) -> pa.Table:
    """Replace the labels of joined rows; ConfigError where no study of the split has a verdict."""
    is_read = pc.is_in(joined["study_id"], verdicts["study_id"].combine_chunks())
    by_split = Counter(joined.filter(is_read)["split"].to_pylist())
    if not by_split[split] and (split != "all" or not by_split):
        others = ", ".join(f"{count:,} of {name}" for name, count in by_split.items()) or "none of the study table"
        raise ConfigError(
            f"{root}: no verdict on a study of split {split}; the readers have judged {others}; see --split"
        )
    return with_review_labels(joined, labels_of(verdicts))


def describe(rows: pa.Table, verdicts: pa.Table) -> ReviewFacts:
    """Sum up the verdicts on the evaluated studies, and log whose they are."""
    of_rows = verdicts.filter(pc.is_in(verdicts["study_id"], rows["study_id"].combine_chunks()))
    facts = review_facts(of_rows, labels_of(of_rows))
    console.log(f"labels: {said(facts)}; {HAD_SEEN}")
    return facts


def say_what_is_not_weighted(root: str) -> None:
    """Log which reading lists of the root drew some studies more often than others: `calibrate` weights all alike."""
    for drawn in reading_lists.open_lists(ScoreRoot.at(root)):
        if len(drawn.studies["probability"].unique()) > 1:
            console.log(
                f"{drawn.name}: this reading list drew some studies more often than others, and calibration gives "
                "every study that was read the same weight; --prevalence names the share of sick studies to assume"
            )


def said(facts: ReviewFacts) -> str:
    """`12 verdicts of 2 readers on 6 studies, on answers of the models 8de215bc (10) and 75e5c8c2 (2)`"""
    readers = "1 reader" if len(facts.readers) == 1 else f"{len(facts.readers):,} readers"
    models = " and ".join(f"{fingerprint[:8]} ({count:,})" for fingerprint, count in facts.fingerprints.items())
    return f"{facts.verdicts:,} verdicts of {readers} on {facts.studies:,} studies, on answers of the models {models}"


def weighted(root: str, joined: pa.Table, split: str, policy: LabelPolicy) -> Iterator[WeightedFigures]:
    """Figures by every reading list of the root, for every finding on which the readers have said enough.

    joined  all scored studies of the table, with the labels of readers
    """
    lists = reading_lists.open_lists(ScoreRoot.at(root))
    findings = labelled(joined)
    rows, evidence = read_evidence(joined, findings, policy)
    in_split = np.ones(rows.num_rows, bool) if split == "all" else pc.equal(rows["split"], split).to_numpy()
    for drawn in lists:
        of_rows = pc.index_in(drawn.studies["study_id"], value_set=rows["study_id"].combine_chunks())
        row_of = pc.fill_null(of_rows, -1).to_numpy()  # (n,) the row of every listed study
        names, strata = np.unique(drawn.studies["stratum"].to_numpy(), return_inverse=True)
        for of_finding in evidence:
            at = np.full(rows.num_rows + 1, -1)  # the last one: of studies that have no row
            at[of_finding.rows] = np.arange(len(of_finding.rows))
            place = at[row_of]
            read = place >= 0
            among = in_split[row_of[read]]
            if not among.any():
                continue
            targets, consensus = of_finding.targets[place[read]], of_finding.consensus[place[read]]
            sample = Sample.of(drawn.studies["probability"].to_numpy(), strata, read)
            yield WeightedFigures(
                finding=of_finding.finding,
                reading_list=drawn.name,
                population=drawn.design.population,
                listed=drawn.studies.num_rows,
                read=int(read.sum()),
                studies=int(among.sum()),
                positives=int((targets & among).sum()),
                unread_strata=tuple(str(names[number]) for number in unread(strata, read)),
                **sample.figures(targets, consensus, among),
            )
