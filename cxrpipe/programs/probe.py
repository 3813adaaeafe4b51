"""The program `probe`: fits heads on stored feature vectors, and writes a model folder. No image is opened.

The heads, and the strength of their regularisation, come from the train split alone. Calibration and thresholds are
fitted on the valid split, as in `train`. So the AUROC of the valid split is honest, and its decisions are optimistic.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrpipe import __version__, console, storage
from cxrpipe.config import ProbeConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.evaluation import probing
from cxrpipe.evaluation.figures import LabelPolicy
from cxrpipe.evaluation.findings import mean_auroc
from cxrpipe.evaluation.join import names_of, refits_of, refuse_other_seed
from cxrpipe.evaluation.linear_heads import Fitted
from cxrpipe.evaluation.population import population
from cxrpipe.evaluation.probing import Judged
from cxrpipe.evaluation.stored_views import StoredViews, read_stored_views
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.evaluation.to_json import as_json
from cxrpipe.models.card import VECTOR_FIELDS, Card
from cxrpipe.models.folder import CARD, ONNX, ModelFolder, open_model, save_model
from cxrpipe.models.out_of_distribution import embedding_of
from cxrpipe.records import CompleteRuns
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.figures import draw_confusion, draw_roc
from cxrpipe.report.reliability import draw_reliability
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import percent, spoken, text
from cxrpipe.runs.root import ScoreRoot

_LEARNS, _JUDGES = "train", "valid"
_WIDTH = 100
_OF_SOURCE = ("source", "licence", "citation", "warnings")
"""Facts of the source's card that hold for the new model, too."""
_OF_BACKBONE = (
    "archive",
    "layout",
    "split_seed",
    "population",
    "settings",
    "valid",
    "best_epoch",
    "cxrpipe",
    "created",
)
"""Facts of the source's card that say what the network under the new heads has learned from."""


def run(config: ProbeConfig) -> ExitStatus:
    table, root = StudyTable(config.studies), ScoreRoot.at(config.scores)
    runs = root.complete_runs().of(config.fingerprint)
    out = _free(config.out)
    place, source = _source(config, runs)
    asked = _asked(config, table)
    refuse_other_seed(runs, table)
    if refits := refits_of(runs, table):
        raise ConfigError(
            f"{refits[0]}: a refit, which has learned from the {_JUDGES} split of this archive; use the vectors "
            "of a fold, or a table of another archive"
        )
    table.refuse_shared_patients()
    stored = read_stored_views(runs, table, place, (_LEARNS, _JUDGES), root.forgotten().is_kept)
    views = {split: _of_split(stored, split, runs.root) for split in (_LEARNS, _JUDGES)}
    policy = LabelPolicy(config.uncertain, config.blank)
    findings = _learnable(views[_LEARNS], asked, policy, config)
    _log_size(views[_LEARNS], len(findings))
    fitted = probing.learn(views[_LEARNS], findings, policy, balanced=config.balance == "weights")

    from cxrpipe.models.heads import with_heads  # imports torch, which a refusal need not wait for

    card, weights = with_heads(source, findings, *fitted.heads)
    aims = Aims(sensitivity=config.aim_sensitivity, specificity=config.aim_specificity, miss_cost=config.miss_cost)
    judged = probing.judge(
        views[_JUDGES], fitted.heads, card.aggregation, policy, rule=config.rule, aims=aims, split=_JUDGES
    )
    for name, content in _pictures(judged).items():
        storage.write(storage.join(out, name), content)
    facts = _facts(config, runs, source, table, views) | _figures(fitted, judged, config.rule)
    save_model(out, _decided(card, source, stored.vectors, judged), weights, facts)
    _print(out, fitted, judged, runs.root)
    return ExitStatus.DONE


# ---- before anything is fitted ------------------------------------------------------------------------------------


def _free(out: str) -> str:
    """The url of a folder that holds no model yet."""
    out = storage.normalise(out)
    if storage.stat(storage.join(out, CARD)):
        raise ConfigError(f"{out}: a model is there already; name another --out")
    return out


def _source(config: ProbeConfig, runs: CompleteRuns) -> tuple[int, ModelFolder]:
    """The place of the member among those that scored, and its model folder. ConfigError for another model."""
    members = runs.newest.members
    names = names_of(members)
    if config.member and config.member not in names:
        raise ConfigError(f"--member {config.member!r}; {runs.root} was scored by {', '.join(names) or 'no member'}")
    if len(names) != 1 and not config.member:
        raise ConfigError(f"{runs.root} was scored by {', '.join(names) or 'a segmenter alone'}; name one --member")
    place = names.index(config.member) if config.member else 0
    report = members[place]
    if not config.model and storage.stat(storage.join(report.url, CARD)) is None:
        raise ConfigError(
            f"{report.url}: the model that scored {runs.root} is no longer there; name its --model folder"
        )
    source = open_model(config.model or report.url, "classify", "embed")
    if source.card.architecture == ONNX:
        raise ConfigError(f"{source.url}: an ONNX file, which gives no feature vectors; name another --member")
    if source.card.weights_sha256 != report.weights_sha256:
        raise ConfigError(
            f"{source.url}: not the model that scored {runs.root} (weights_sha256 {source.card.weights_sha256[:12]}…, "
            f"expected {report.weights_sha256[:12]}…); name another --model"
        )
    now, then = source.card.view_fields(), report.card
    changed = [key for key in VECTOR_FIELDS if then is not None and now.get(key) != then.get(key)]
    if changed:
        raise ConfigError(f"{source.url}: its card has another {', '.join(changed)} than when it scored {runs.root}")
    return place, source


def _asked(config: ProbeConfig, table: StudyTable) -> tuple[str, ...]:
    """The findings that the settings name, else all of the table."""
    if unknown := set(config.findings).difference(table.findings):
        raise ConfigError(
            f"findings {', '.join(sorted(unknown))} are not labelled in {table.url}; "
            f"it has {', '.join(table.findings) or 'no labels'}"
        )
    if not table.findings:
        raise ConfigError(f"{table.url}: no labels; heads need studies that are labelled with 1 and 0")
    return tuple(dict.fromkeys(config.findings)) or table.findings


def _of_split(stored: StoredViews, split: str, root: str) -> StoredViews:
    views = stored.of_split(split)
    if not len(views.vectors):
        raise ConfigError(f"{root}: no feature vector of a study in the {split} split; heads need train and valid")
    return views


def _learnable(views: StoredViews, asked: tuple[str, ...], policy: LabelPolicy, config: ProbeConfig) -> tuple[str, ...]:
    """The findings to fit: those that are named, or all that the train split has labels of both kinds of."""
    findings = tuple(probing.learnable(views, asked, policy))
    left_out = ", ".join(finding for finding in asked if finding not in findings)
    if left_out and (config.findings or not findings):
        raise ConfigError(
            f"{config.studies}: the scored studies of the train split lack positive or negative examples of "
            f"{left_out}; name other --findings"
        )
    if left_out:
        console.log(f"findings left out, because the train split lacks positive or negative examples: {left_out}")
    return findings


def _log_size(views: StoredViews, findings: int) -> None:
    count, features = views.vectors.shape
    studies = len(np.unique(views.study))
    heads = "1 head learns" if findings == 1 else f"{findings} heads learn"
    console.log(f"{heads} from {count:,} views of {studies:,} studies, {features:,} features a view")


# ---- the new model ------------------------------------------------------------------------------------------------


def _decided(card: Card, source: ModelFolder, vectors: np.ndarray, judged: Judged) -> Card:
    """Add what the studies decide: thresholds, calibration, and how the views look that the heads have seen.

    A source with an embedding averages its last feature map over places: this average is the feature vector. A source
    without one cannot tell what is unlike.
    """
    known = source.card.embedding
    tells = known is not None and len(known.mean) == vectors.shape[1]
    return replace(
        card,
        thresholds=dict.fromkeys(card.findings, 0.5) | {fit.finding: fit.threshold for fit in judged.fitted},
        calibration={fit.finding: (fit.line.slope, fit.line.intercept) for fit in judged.fitted},
        embedding=embedding_of(vectors.astype(np.float32)) if tells else None,
    )


def _facts(
    config: ProbeConfig,
    runs: CompleteRuns,
    source: ModelFolder,
    table: StudyTable,
    views: Mapping[str, StoredViews],
) -> dict[str, Any]:
    """The facts of the card: where the heads and their backbone come from. `forget` reads `heads`."""
    of_source = source.card.facts
    return {
        **{name: of_source[name] for name in _OF_SOURCE if name in of_source},
        "settings": asdict(config) | {"findings": list(config.findings)},
        "archive": table.metadata["archive"],
        "layout": table.metadata["layout"],
        "split_seed": int(seed) if (seed := table.metadata["split_seed"]).isdigit() else seed,
        "population": {split: population(_studies(table, of_split)) for split, of_split in views.items()},
        "heads": {
            "scores": runs.root,
            "runs": [report.run_id for report in runs],
            "studies": table.url,
            "model": source.url,
        },
        "backbone": of_source.get("backbone", {key: of_source[key] for key in _OF_BACKBONE if key in of_source}),
        "cxrpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _studies(table: StudyTable, views: StoredViews) -> list[Any]:
    ids = IdSet(views.studies["study_id"].take(pa.array(np.unique(views.study))).to_pylist())
    return [study for study in table.studies() if ids.contains([study.study_id])[0]]


def _figures(fitted: Fitted, judged: Judged, rule: str) -> dict[str, Any]:
    """How good the heads are on the valid split, and what was chosen there and on the train split."""
    areas = {figures.finding: as_json(figures.auroc) for figures in judged.figures}
    return {
        "valid": {
            "score": as_json(mean_auroc(judged.figures))["value"],
            "per_finding": {finding: area["value"] for finding, area in areas.items()},
            "interval": {finding: [area["low"], area["high"]] for finding, area in areas.items()},
        },
        "fitted": {"calibration": "platt", "threshold": rule, "split": _JUDGES},
        "prevalence": {fit.finding: fit.prevalence for fit in judged.fitted},
        "strengths": dict(zip(areas, fitted.strengths.tolist(), strict=True)),
    }


def _pictures(judged: Judged) -> dict[str, bytes]:
    """File name → PNG."""
    files = {"reliability.png": draw_reliability(judged.fitted)} if judged.fitted else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in (("roc.png", draw_roc), ("confusion.png", draw_confusion)):
            draw(judged.figures, Path(folder, name))
            files[name] = Path(folder, name).read_bytes()
    return files


def _print(out: str, fitted: Fitted, judged: Judged, root: str) -> None:
    table = figures_table("finding", "studies", "positive", "AUROC", "sens.", "spec.", "strength")
    for figures, strength in zip(judged.figures, fitted.strengths, strict=True):
        numbers = f"{figures.studies:,}", f"{figures.positives:,}", text(figures.auroc, 3)
        decisions = (percent(figure, interval=False) for figure in (figures.sensitivity, figures.specificity))
        table.add_row(spoken(figures.finding), *numbers, *decisions, f"{strength:g}")
    console.out(_WIDTH).print(table)
    console.out().print(
        "On the valid split, in brackets 95% intervals over patients. Heads and strengths come from the train split;\n"
        "calibration and thresholds from these studies, so sensitivity and specificity are optimistic.\n"
        f"Model: {out}\n"
        f"Scoring with it into {root} derives rows from the stored vectors; no image is opened."
    )
