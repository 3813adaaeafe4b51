"""The last model: trained on every study but the test split, for the epochs that folds chose.

No study is left to choose the epoch or to judge the model. So the models of the folds decide: training stops after the
median of their best epochs, under the same learning-rate schedule, and calibration and thresholds are fitted on what
each of them says of the fold that it has not seen.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console, storage
from cxrpipe.archives.index import Source
from cxrpipe.config.train import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models import out_of_distribution
from cxrpipe.models.card import Card, Embedding
from cxrpipe.models.folder import ModelFolder, model_folders, open_model
from cxrpipe.records.splits import REFIT
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training import held_out
from cxrpipe.training.model_folder import FITTED, calibrated
from cxrpipe.training.predictions import Predictions
from cxrpipe.training.settings import settings_of, with_defaults

_MAY_DIFFER = ("out", "archive", "studies", "fold", "folds", "refit", "workers", "max_failures", "compile", "precision")
"""Settings in which the refit may differ from its folds. The archive of the cards is compared instead of its url."""


@dataclass(frozen=True)
class Refit:
    """What the models of the folds decide."""

    folds: tuple[ModelFolder, ...]
    stop_at: int
    """The median of their best epochs."""
    over_all: bool
    """Whether the folds were cut over all studies, because the archive has no official test split."""
    predictions: pa.Table
    """Their predictions of the folds that they have not seen (see `held_out.held_out_table`), one row per study."""

    def source(self, source: Source, seed: int) -> Source:
        """The source whose train split holds every study that the refit learns from, and the test split the others."""
        rows = pa.concat_tables(source.table.batches())
        if not self.over_all:
            rows = rows.filter(pc.not_equal(rows["split"], "test"))
        place = rows.schema.get_field_index("split")
        rows = rows.set_column(place, rows.schema.field(place), pa.array(["train"] * rows.num_rows))
        cut = f"{REFIT} over {'all' if self.over_all else 'development'}, seed {seed}"
        metadata = dict(source.table.schema.metadata)
        metadata |= {b"split_seed": f"{source.table.metadata['split_seed']}; {cut}".encode()}
        console.log(f"{cut}: {rows.num_rows:,} studies to learn from, {self.stop_at} epochs")
        return source.replaced(rows.replace_schema_metadata(metadata))

    def fitted(self, card: Card, predictions: Predictions) -> Card:
        """Add to a classifier's card what the folds decide; a segmenter's card stays as it is."""
        if card.task == "segment":
            return card
        card = calibrated(card, *held_out.arrays_of(card, self.predictions), "held-out folds")
        return replace(card, embedding=self._embedding(predictions))

    def refuse_other_findings(self, card: Card) -> None:
        """ConfigError where the folds know other findings than the planned model will."""
        if any(fold.card.findings != card.findings for fold in self.folds):
            raise ConfigError(
                f"the refit learns {', '.join(card.findings)}, and {self.folds[0].url} "
                f"{', '.join(self.folds[0].card.findings)}; name the findings with --findings"
            )

    def _embedding(self, predictions: Predictions) -> Embedding | None:
        """How training views look to the network; the limit is the folds' median, which held-out views widened."""
        limits = [fold.card.embedding.limit for fold in self.folds if fold.card.embedding]
        if predictions.train is None or not predictions.train.embedding.shape[1] or not limits:
            return None
        return out_of_distribution.embedding_of(predictions.train.embedding)._replace(limit=statistics.median(limits))

    def facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts of the card: those of any training without figures, for the model has none of its own."""
        kept = {name: value for name, value in facts.items() if name not in ("valid", "best_epoch")}
        return kept | {
            "refit": True,
            "refit_of": [fold.url for fold in self.folds],
            "epochs": self.stop_at,
            "fitted": FITTED | {"split": "held-out folds"},
        }


def open_refit(config: TrainConfig, table: StudyTable) -> Refit:
    """Open the models of the folds. ConfigError where they are not folds of one training with these settings."""
    folds = tuple(open_model(url, config.task) for url in model_folders(config.refit))
    settings = [_settings(fold, config) for fold in folds]
    for fold, of_fold in zip(folds, settings, strict=True):
        _refuse_other(fold, of_fold, config, table)
    numbers = sorted(of_fold["fold"] for of_fold in settings)
    of = {(of_fold["folds"], of_fold["fold_over"], of_fold["folds_by"]) for of_fold in settings}
    if len(set(numbers)) < len(numbers) or len(of) > 1:
        raise ConfigError(
            f"--refit {', '.join(fold.url for fold in folds)}: folds {', '.join(map(str, numbers))} of "
            f"{' and '.join(sorted({str(number) for number, *_ in of}))}; name each fold of one cut once"
        )
    ((count, over, _),) = of
    if len(numbers) < count:
        console.log(f"{len(numbers)} of {count} folds: calibration and thresholds are fitted on these alone")
    best = [fold.card.facts["best_epoch"] for fold in folds]
    stop_at = math.floor(statistics.median(best) + 0.5)
    console.log(f"the folds were best after {', '.join(map(str, best))} epochs; the refit stops after {stop_at}")
    return Refit(folds, stop_at, over == "all", _predictions(folds))


def _settings(fold: ModelFolder, config: TrainConfig) -> dict[str, Any]:
    settings = fold.card.facts.get("settings", {})
    if not settings.get("folds") or "best_epoch" not in fold.card.facts:
        raise ConfigError(f"{fold.url}: not a model of a fold; --refit takes models that were trained with --folds")
    if settings.get("fold_over") == "train":
        raise ConfigError(f"{fold.url}: a fold over train, which holds no fold out; --refit takes other --fold-over")
    return with_defaults(settings, config)


def _refuse_other(fold: ModelFolder, settings: dict[str, Any], config: TrainConfig, table: StudyTable) -> None:
    """ConfigError where a fold was trained with other settings, or on another archive or split."""
    wanted = settings_of(config)
    differ = [name for name in wanted if name not in _MAY_DIFFER and wanted[name] != settings.get(name)]
    if config.folds and config.folds != settings["folds"]:
        differ.append("folds")
    if differ:
        pairs = ", ".join(f"{name} {settings.get(name)} against {wanted[name]}" for name in differ)
        raise ConfigError(f"{fold.url}: trained with other settings than this refit: {pairs}")
    facts, seed = fold.card.facts, str(fold.card.facts.get("split_seed", "")).partition("; ")[0]
    for name, theirs, ours in (
        ("archive", facts.get("archive"), table.metadata["archive"]),
        ("split seed", seed, table.metadata["split_seed"]),
    ):
        if theirs != ours:
            raise ConfigError(f"{fold.url}: trained on {name} {theirs}, not on {ours}")


def _predictions(folds: Sequence[ModelFolder]) -> pa.Table:
    tables = []
    for fold in folds:
        try:
            tables.append(storage.read_table(storage.join(fold.url, held_out.FILE)))
        except FileNotFoundError:
            raise ConfigError(f"{fold.url}: has no {held_out.FILE}; train this fold again") from None
    return pa.concat_tables(tables)
