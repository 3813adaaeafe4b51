"""Linear heads on feature vectors: the strength of each finding's regularisation is chosen on held-out patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.logistic import FOLDS, LogisticFits, chunks, sigmoid

STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
"""Strengths of the regularisation that are tried, the strongest first (see `LogisticFits`)."""
_NOISE, _SMALLEST = 3e-3, 1e-6
"""A feature says nothing where its standard deviation is below this fraction of its mean, or below this number. Feature
vectors are stored in 16 bits: what varies less is mostly rounding, and a head on it would answer to rounding."""


class LinearHeads(NamedTuple):
    """A linear layer for F findings: logits = vectors @ weight.T + bias."""

    weight: np.ndarray  # (F, D) float32
    bias: np.ndarray  # (F,) float32

    def probs(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) float → (N, F) float32, 0..1"""
        return sigmoid(vectors.astype(np.float32) @ self.weight.T + self.bias)


class Fitted(NamedTuple):
    """Heads, and how the strengths were chosen."""

    heads: LinearHeads
    strengths: np.ndarray  # (F,) float, of `STRENGTHS`
    losses: np.ndarray  # (S, F) float: mean loss on held-out patients at each strength; nan where none was fitted


def fit_heads(
    vectors: np.ndarray,
    targets: np.ndarray,
    patients: np.ndarray,
    *,
    positive_weights: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    step: Callable[[str], object] = lambda line: None,
) -> Fitted:
    """Fit a head for every finding: five folds of patients choose the strength, then all views fit the head.

    From the strongest on, strengths are tried until no finding improves any more.

    ConfigError where all vectors are alike.

    vectors           (N, D) float32, finite; overwritten: a copy of 100,000 views x 768 would take 300 MB
    targets           (N, F) float: 1, 0, or nan for a view that the finding leaves out; both classes in every finding
    patients          (N,) int: the patient of each view. Views of a patient are held out together
    positive_weights  (F,) weight of a positive view; a negative one weighs 1. None: 1
    strengths         the strongest first: every fit starts from the one before
    step              shows a line to a person
    """
    mean, deviation = _standardise(vectors)
    fits = LogisticFits(vectors, targets, positive_weights, folds_of(patients, seed))
    losses = np.full((len(strengths), fits.findings), np.nan)
    weights = best = np.zeros((FOLDS, fits.findings, vectors.shape[1] + 1))
    for number, strength in enumerate(strengths):
        weights = fits.without_each_fold(np.full(fits.findings, strength), start=weights)
        losses[number] = fits.held_out_loss(weights)
        improved = losses[number] <= np.nanmin(losses, axis=0)
        best = np.where(improved[:, None], weights, best)
        step(f"strength {strength:g}: mean loss {losses[number].mean():.4f} on held-out patients")
        if not improved.any():
            break
    chosen = np.asarray(strengths)[np.nanargmin(losses, axis=0)]
    fitted = fits.of_all_views(chosen, start=best.mean(axis=0))
    weight = fitted[:, :-1] / deviation
    bias = fitted[:, -1] - weight @ mean
    return Fitted(LinearHeads(weight.astype(np.float32), bias.astype(np.float32)), chosen, losses)


def folds_of(patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Deal patients into folds at random: (N,) int → (N,) int, 0..FOLDS - 1."""
    known, patient = np.unique(patients, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(known))[patient] % FOLDS)


def _standardise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise the columns in place; their means and standard deviations, (D,) float64.

    A column that says nothing becomes 0, and its standard deviation infinite: its weight is 0.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    vectors -= mean.astype(np.float32)
    squares = sum(
        np.einsum("nd,nd->d", vectors[rows], vectors[rows]).astype(np.float64) for rows in chunks(len(vectors))
    )
    deviation = np.sqrt(squares / len(vectors))
    deviation[deviation <= np.maximum(_NOISE * np.abs(mean), _SMALLEST)] = np.inf
    if np.isinf(deviation).all():
        raise ConfigError(
            "the feature vectors hardly differ from view to view, as 16 bits hold them; use another member"
        )
    vectors /= deviation.astype(np.float32)
    return mean, deviation
