"""The program `probe`: fits heads on stored feature vectors, and writes a model folder. No image is opened.

The heads, and the strength of their regularisation, come from the train split alone. Calibration and thresholds are
fitted on the valid split, as in `train`. So the AUROC of the valid split is honest, and its decisions are optimistic.
"""

import numpy as np

from cxrpipe import console, storage
from cxrpipe.config import ProbeConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.evaluation import probing
from cxrpipe.evaluation.figures import LabelPolicy
from cxrpipe.evaluation.join import names_of, refits_of, refuse_other_seed
from cxrpipe.evaluation.linear_heads import Fitted
from cxrpipe.evaluation.probing import Judged
from cxrpipe.evaluation.stored_views import StoredViews, read_stored_views
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.models.card import VECTOR_FIELDS
from cxrpipe.models.folder import CARD, ONNX, ModelFolder, open_model, refuse_taken, save_model
from cxrpipe.programs import probe_folder
from cxrpipe.records import CompleteRuns
from cxrpipe.records.stored_vectors import with_vectors
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import percent, spoken, text
from cxrpipe.runs.root import ScoreRoot

_LEARNS, _JUDGES = "train", "valid"
_WIDTH = 100


def run(config: ProbeConfig) -> ExitStatus:
    table, root = StudyTable(config.studies), ScoreRoot.at(config.scores)
    runs = with_vectors(root.complete_runs(), config.fingerprint)
    out = refuse_taken(config.out)
    place, source = _source(config, runs)
    named = _named(config, table)
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
    findings = _learnable(views[_LEARNS], named, policy, config)
    _log_size(views[_LEARNS], len(findings))
    fitted = probing.learn(views[_LEARNS], findings, policy, balanced=config.balance == "weights")

    from cxrpipe.models.heads import with_heads  # imports torch, which a refusal need not wait for

    card, weights = with_heads(source, findings, *fitted.heads)
    aims = Aims(sensitivity=config.aim_sensitivity, specificity=config.aim_specificity, miss_cost=config.miss_cost)
    judged = probing.judge(
        views[_JUDGES], fitted.heads, card.aggregation, policy, rule=config.rule, aims=aims, split=_JUDGES
    )
    for name, content in probe_folder.pictures(judged).items():
        storage.write(storage.join(out, name), content)
    origin = probe_folder.origin(config, runs, source, table, views)
    figures = probe_folder.figures(fitted, judged, config.rule, _JUDGES)
    save_model(out, probe_folder.decided(card, source, stored.vectors, judged), weights, origin | figures)
    _print(out, fitted, judged, runs.root)
    return ExitStatus.DONE


# ---- before anything is fitted ------------------------------------------------------------------------------------


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


def _named(config: ProbeConfig, table: StudyTable) -> tuple[str, ...]:
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


def _learnable(views: StoredViews, named: tuple[str, ...], policy: LabelPolicy, config: ProbeConfig) -> tuple[str, ...]:
    """The findings to fit: those that are named, or all that the train split has labels of both kinds of."""
    findings = tuple(probing.learnable(views, named, policy))
    left_out = ", ".join(finding for finding in named if finding not in findings)
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
