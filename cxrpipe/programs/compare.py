"""The program `compare`: compares two scored runs. Its exit status is a nightly alarm."""

import json
import math
from typing import NamedTuple

import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.config import CompareConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.evaluation.drift import Comparison, compare
from cxrpipe.evaluation.to_json import as_json
from cxrpipe.records import ASIDE, complete_runs
from cxrpipe.report.comparison import render_comparison
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import spoken

_WIDTH = 100


class Scored(NamedTuple):
    """One side of the comparison."""

    name: str
    findings: tuple[str, ...]
    fingerprint: str
    rows: pa.Table


def run(config: CompareConfig) -> ExitStatus:
    reference, later = (_open(word, config) for word in config.runs)
    _refuse_incomparable(reference, later, config.across_models)
    comparison = compare(
        reference.rows,
        later.rows,
        _findings_of_both(reference, later),
        (reference.name, later.name),
        resamples=config.resamples,
        seed=config.seed,
        may_alarm=not config.across_models,
    )
    if config.out:
        figures = json.dumps(as_json(comparison) | {"alarm": comparison.alarm}, indent=2) + "\n"
        out = storage.normalise(config.out)
        storage.write(storage.join(out, "comparison.json"), figures.encode())
        storage.write(storage.join(out, "comparison.html"), render_comparison(comparison).encode())
    _print(comparison)
    return ExitStatus.DRIFTED if comparison.alarm else ExitStatus.DONE


def _open(word: str, config: CompareConfig) -> Scored:
    """Read the rows that a word of the command names; ConfigError where no complete run has them."""
    root, run_id = (storage.normalise(config.root), word) if config.root else _split(storage.normalise(word))
    if run_id is None:
        runs = complete_runs(root).of(config.fingerprint)
        return Scored(root, runs.newest.findings, runs.newest.fingerprint, runs.scores(ASIDE))
    runs = complete_runs(root).required()
    reports = {report.run_id: report for report in runs}
    if run_id == "latest":
        run_id = runs.newest.run_id
    if run_id not in reports:
        raise ConfigError(f"{root}: no complete run {run_id!r}; it has {', '.join(list(reports)[-5:])}")
    report = reports[run_id]
    name = storage.join(root, "runs", run_id)
    return Scored(name, report.findings, report.fingerprint, runs.rows(report, ASIDE))


def _split(url: str) -> tuple[str, str | None]:
    """Split `ROOT/runs/ID` or `ROOT/scores/run=ID` into root and run id. Any other url is a root, with None."""
    folder, _, name = url.rstrip("/").rpartition("/")
    root, _, above = folder.rpartition("/")
    if above == "runs" or (above == "scores" and name.startswith("run=")):
        return root, name.removeprefix("run=")
    return url, None


def _refuse_incomparable(reference: Scored, later: Scored, across_models: bool) -> None:
    either = (*reference.findings, *later.findings)
    if either and not set(reference.findings).intersection(later.findings):
        raise ConfigError(
            f"{reference.name} has the findings {', '.join(reference.findings) or 'of no classifier'}, {later.name} "
            f"{', '.join(later.findings) or 'of no classifier'}: they cannot be compared"
        )
    if reference.fingerprint != later.fingerprint and not across_models:
        raise ConfigError(
            f"{reference.name} was scored by {reference.fingerprint}, {later.name} by {later.fingerprint}: other "
            "models give other distributions, which is no drift of the archive; --across-models compares them without "
            "an alarm"
        )
    for side in (reference, later):
        if not side.rows.num_rows:
            raise ConfigError(f"{side.name}: no rows to compare")


def _findings_of_both(reference: Scored, later: Scored) -> list[str]:
    """The findings that both sides have, in the order of the reference; a line names those that one side lacks."""
    for side, other in ((reference, later), (later, reference)):
        if others := [finding for finding in side.findings if finding not in other.findings]:
            console.log(f"left out, since only {side.name} has them: {', '.join(others)}")
    return [finding for finding in reference.findings if finding in later.findings]


def _print(comparison: Comparison) -> None:
    out = console.out(_WIDTH)
    out.print(f"reference  {comparison.reference}\nlater      {comparison.later}", markup=False)
    shifts = figures_table("", "studies", "mean", "then", "PSI", "by chance", "KS", "positive", "then", "")
    for shift in comparison.shifts:
        fractions = shift.reference_positive_fraction, shift.positive_fraction
        shifts.add_row(
            spoken(shift.name),
            f"{shift.studies:,}",
            *(_number(value) for value in (shift.reference_mean, shift.mean, shift.psi, shift.psi_by_chance, shift.ks)),
            *("–" if math.isnan(value) else f"{value:.1%}" for value in fractions),
            "ALARM" if shift.alarm else "",
        )
    out.print(shifts)
    counts = figures_table("status", "reference", "later")
    for status in sorted({*comparison.reference_counts, *comparison.counts}):
        counts.add_row(
            status, f"{comparison.reference_counts.get(status, 0):,}", f"{comparison.counts.get(status, 0):,}"
        )
    out.print(counts)
    flipped = sum(flips.to_positive + flips.to_negative for flips in comparison.flips)
    out.print(
        f"{comparison.studies_in_both:,} studies in both: {flipped:,} decisions flipped, "
        f"{comparison.newly_failed_studies:,} studies newly without numbers"
    )
    for flips in comparison.flips:
        if flips.study_ids:
            name = spoken(flips.finding)
            out.print(f"  {name}: {flips.to_positive:,} to positive, {flips.to_negative:,} to negative", markup=False)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
