"""L2-regularised logistic regressions of many findings on the same views, fitted at once.

The fits share one matrix product a step: 70 (14 findings, 5 folds) cost twice as much as one. L-BFGS walks along the
principal axes of the views, each scaled by the square root of its curvature, and needs a third of the steps (469 → 141
on benchmarks/probe.py with 10,000 views x 256).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from cxrpipe.config.cores import machine_cores

FOLDS = 5
_ROWS = 4_096
"""Views of one product."""
_STEPS = 200
_TOLERANCE = 1e-6
"""L-BFGS ends where a step lowers the cost by less than this fraction."""


class LogisticFits:
    """F regressions on N views, each of all views, or K times without the views of one fold.

    The cost of a finding is the mean loss of its views, plus half the strength times the squared length of its weights
    (without the bias). scikit-learn's C is 1 / (strength · N).

    views             (N, D) float32, standardised
    targets           (N, F) float: 1, 0, or nan for a view that the finding leaves out
    positive_weights  (F,) weight of the loss of a positive view; None: 1
    fold              (N,) int, 0..FOLDS - 1
    """

    def __init__(
        self, views: np.ndarray, targets: np.ndarray, positive_weights: np.ndarray | None, fold: np.ndarray
    ) -> None:
        self._views, self._fold = views, fold
        self.findings = targets.shape[1]
        self._present = targets == 1
        weights = np.where(self._present, 1.0 if positive_weights is None else positive_weights, ~np.isnan(targets))
        self._weights = weights.astype(np.float32)  # (N, F)
        self._total = weights.sum(axis=0)  # (F,)
        self._of_fold = np.stack([weights[fold == number].sum(axis=0) for number in range(FOLDS)])  # (K, F)
        covariance = (views.T @ views).astype(np.float64) / len(views)
        with threadpool_limits(1):  # on a busy machine, BLAS's threads wait for each other here
            self._variances, self._axes = np.linalg.eigh(covariance)

    def of_all_views(self, strengths: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(F,) strengths and (F, D + 1) start → (F, D + 1): the weights, and the bias last."""
        return np.asarray(self._fit(strengths, start[None], 1 / self._total[None], held_out=False)[0])

    def without_each_fold(self, strengths: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(F,) strengths and (K, F, D + 1) start → (K, F, D + 1): the fits without the views of each fold."""
        total = self._total - self._of_fold
        shares = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
        return self._fit(strengths, start, shares, held_out=True)

    def held_out_loss(self, weights: np.ndarray) -> np.ndarray:
        """(K, F, D + 1) → (F,): mean loss of all views, each under the fit that has not seen its fold."""

        def loss(rows: slice) -> np.ndarray:
            logits = self._logits(rows, weights)[np.arange(len(self._fold[rows])), self._fold[rows]]
            costs = self._weights[rows] * _loss(logits, self._present[rows])
            return np.asarray(costs.sum(axis=0, dtype=np.float64))

        return np.asarray(sum(map(loss, chunks(len(self._views)))) / self._total)

    def _fit(self, strengths: np.ndarray, start: np.ndarray, shares: np.ndarray, held_out: bool) -> np.ndarray:
        """shares  (K, F) the weight of one view in the mean loss of its finding"""
        from scipy.optimize import minimize

        # The curvature of the logistic loss is at most a quarter of the variance.
        scale = 1 / np.sqrt(self._variances.clip(0) / 4 + strengths[:, None])  # (F, D)
        scale = np.concatenate([scale, np.full((self.findings, 1), 2.0)], axis=1)

        def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = self._along_features(flat.reshape(start.shape) * scale)
            loss, gradient = self._mean_losses(weights, shares, held_out, pool)
            loss += float((strengths * np.square(weights[..., :-1]).sum(axis=2)).sum() / 2)
            gradient[..., :-1] += strengths[:, None] * weights[..., :-1]
            return loss, (self._along_axes(gradient) * scale).ravel()

        first = (self._along_axes(start) / scale).ravel()
        options = {"maxiter": _STEPS, "ftol": _TOLERANCE}
        # Each thread takes one part of the views after another. BLAS's threads would leave all but the products to one.
        with threadpool_limits(1), ThreadPoolExecutor(machine_cores()) as pool:
            best = minimize(cost, first, jac=True, method="L-BFGS-B", options=options).x
        return self._along_features(best.reshape(start.shape) * scale)

    def _mean_losses(
        self, weights: np.ndarray, shares: np.ndarray, held_out: bool, pool: ThreadPoolExecutor
    ) -> tuple[float, np.ndarray]:
        """The sum of the mean losses of all fits, and its gradient (K, F, D + 1)."""

        def of(rows: slice) -> tuple[float, np.ndarray]:
            logits = self._logits(rows, weights)
            of_view = self._weights[rows, None] * shares.astype(np.float32)  # (n, K, F)
            if held_out:
                of_view[np.arange(len(of_view)), self._fold[rows]] = 0
            present = self._present[rows, None]
            residual = of_view * (sigmoid(logits) - present)
            gradient = np.tensordot(residual, self._views[rows], axes=(0, 0))  # (K, F, D)
            bias = residual.sum(axis=0)[..., None]
            return float((of_view * _loss(logits, present)).sum(dtype=np.float64)), np.concatenate([gradient, bias], 2)

        loss, gradient = 0.0, np.zeros(weights.shape)
        for of_chunk, gradient_of_chunk in pool.map(of, chunks(len(self._views))):
            loss += of_chunk
            gradient += gradient_of_chunk
        return loss, gradient

    def _logits(self, rows: slice, weights: np.ndarray) -> np.ndarray:
        """(K, F, D + 1) weights → (n, K, F) float32 logits of some views."""
        flat = weights.reshape(-1, weights.shape[-1]).astype(np.float32)
        logits = self._views[rows] @ flat[:, :-1].T + flat[:, -1]
        return np.asarray(logits.reshape(-1, *weights.shape[:2]))

    def _along_axes(self, weights: np.ndarray) -> np.ndarray:
        """Weights of features → weights of the principal axes; the bias, which is last, stays."""
        return np.concatenate([weights[..., :-1] @ self._axes, weights[..., -1:]], axis=-1)

    def _along_features(self, weights: np.ndarray) -> np.ndarray:
        """The inverse of `_along_axes`."""
        return np.concatenate([weights[..., :-1] @ self._axes.T, weights[..., -1:]], axis=-1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float32 → float32, 0..1"""
    with np.errstate(over="ignore"):  # exp becomes infinite, and 1 / infinity is 0
        return np.asarray(1 / (1 + np.exp(-logits)))


def chunks(views: int) -> list[slice]:
    """The views in parts that the cache holds."""
    return [slice(start, start + _ROWS) for start in range(0, views, _ROWS)]


def _loss(logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """-log of the probability that the logits give to the target."""
    return np.asarray(np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - present * logits)
