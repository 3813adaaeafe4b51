"""The program `compare`: two scored runs side by side, and an exit status for a nightly alarm."""

import json
import math
from typing import NamedTuple

import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.config import CompareConfig
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.drift import Comparison, compare
from cxrpipe.evaluation.join import account_of
from cxrpipe.evaluation.to_json import as_json
from cxrpipe.records import read_run, read_scores, runs_of
from cxrpipe.report.comparison import render_comparison
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import spoken

DRIFTED = 5
_WIDTH = 100


class Scored(NamedTuple):
    """One side of the comparison."""

    name: str
    findings: tuple[str, ...]
    fingerprint: str
    rows: pa.Table


def run(config: CompareConfig) -> int:
    reference, later = (_open(word, config) for word in config.runs)
    _refuse_incomparable(reference, later, config.across_models)
    found = compare(
        reference.rows,
        later.rows,
        reference.findings,
        (reference.name, later.name),
        resamples=config.resamples,
        seed=config.seed,
        may_alarm=not config.across_models,
    )
    if config.out:
        said = json.dumps(as_json(found) | {"alarm": found.alarm}, indent=2) + "\n"
        out = storage.normalise(config.out)
        storage.write(storage.join(out, "comparison.json"), said.encode())
        storage.write(storage.join(out, "comparison.html"), render_comparison(found).encode())
    _print(found)
    return DRIFTED if found.alarm else 0


def _open(word: str, config: CompareConfig) -> Scored:
    """A word of the command → rows; ConfigError where there is no complete run."""
    root, run_id = (storage.normalise(config.root), word) if config.root else _split(storage.normalise(word))
    if run_id is None:
        rows = read_scores(root, config.fingerprint)
        fingerprint = rows["fingerprint"][0].as_py()
        return Scored(root, tuple(account_of(root, fingerprint)["findings"]), fingerprint, rows)
    accounts = {account["run_id"]: account for account in runs_of(root)}
    if run_id == "latest":
        run_id = list(accounts)[-1]
    if run_id not in accounts:
        raise ConfigError(f"{root}: no complete run {run_id!r}; it has {', '.join(list(accounts)[-5:])}")
    account = accounts[run_id]
    name = storage.join(root, "runs", run_id)
    return Scored(name, tuple(account["findings"]), account["fingerprint"], read_run(root, account))


def _split(url: str) -> tuple[str, str | None]:
    """`ROOT/runs/ID` or `ROOT/scores/run=ID` → root and id; anything else is a root."""
    folder, _, name = url.rstrip("/").rpartition("/")
    root, _, above = folder.rpartition("/")
    if above == "runs" or (above == "scores" and name.startswith("run=")):
        return root, name.removeprefix("run=")
    return url, None


def _refuse_incomparable(reference: Scored, later: Scored, across_models: bool) -> None:
    if reference.findings != later.findings:
        raise ConfigError(
            f"{reference.name} has the findings {', '.join(reference.findings) or 'of no classifier'}, {later.name} "
            f"{', '.join(later.findings) or 'of no classifier'}: they cannot be compared"
        )
    if reference.fingerprint != later.fingerprint and not across_models:
        raise ConfigError(
            f"{reference.name} was scored by {reference.fingerprint}, {later.name} by {later.fingerprint}: other "
            "models give other distributions, which is no drift of the archive; --across-models compares them all the "
            "same, without an alarm"
        )
    for side in (reference, later):
        if not side.rows.num_rows:
            raise ConfigError(f"{side.name}: no rows to compare")


def _print(found: Comparison) -> None:
    out = console.out(_WIDTH)
    out.print(f"reference  {found.reference}\nlater      {found.later}", markup=False)
    shifts = figures_table("", "studies", "mean", "then", "PSI", "by chance", "KS", "positive", "then", "")
    for each in found.shifts:
        fractions = each.reference_positive_fraction, each.positive_fraction
        shifts.add_row(
            spoken(each.name),
            f"{each.studies:,}",
            *(_number(value) for value in (each.reference_mean, each.mean, each.psi, each.psi_by_chance, each.ks)),
            *("–" if math.isnan(value) else f"{value:.1%}" for value in fractions),
            "ALARM" if each.alarm else "",
        )
    out.print(shifts)
    counts = figures_table("status", "reference", "later")
    for status in sorted({*found.reference_counts, *found.counts}):
        counts.add_row(status, f"{found.reference_counts.get(status, 0):,}", f"{found.counts.get(status, 0):,}")
    out.print(counts)
    flipped = sum(each.to_positive + each.to_negative for each in found.flips)
    out.print(
        f"{found.studies_in_both:,} studies in both: {flipped:,} decisions flipped, "
        f"{found.newly_failed_studies:,} studies newly without numbers"
    )
    for flips in found.flips:
        if flips.study_ids:
            name = spoken(flips.finding)
            out.print(f"  {name}: {flips.to_positive:,} to positive, {flips.to_negative:,} to negative", markup=False)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
