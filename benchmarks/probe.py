"""How long the heads of `cxrpipe probe` take to fit: python benchmarks/probe.py [--views N --features D --findings F].

The vectors are synthetic: a spectrum of variances as of real feature vectors, findings of 1% to 30% that depend on them
linearly, 5% of labels missing, and patients with 1 to 6 views. Issue 16's bound: 14 findings on 100,000 views x 768 in
five minutes on two cores.
"""

import argparse
import resource
import time

import numpy as np

from cxrpipe.evaluation.linear_heads import fit_heads
from cxrpipe.evaluation.metrics import auroc


def synthetic(views: int, features: int, findings: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D) float32 vectors, (N, F) targets, (N,) patients."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(views), rng.integers(1, 7, views))[:views]
    spectrum = (1 + np.arange(features)) ** -0.75
    mixing = np.linalg.qr(rng.normal(size=(features, features)))[0].astype(np.float32)
    sources = rng.normal(size=(views, features)).astype(np.float32) * spectrum.astype(np.float32)
    rates = np.geomspace(0.01, 0.3, findings)
    signal = sources @ rng.normal(size=(features, findings)).astype(np.float32)
    noisy = signal / signal.std(axis=0) + rng.normal(size=signal.shape)
    bounds = [np.quantile(column, 1 - rate) for column, rate in zip(noisy.T, rates, strict=True)]
    targets = (noisy > bounds).astype(np.float32)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    vectors = sources @ mixing
    np.maximum(vectors, -0.02, out=vectors)  # features behind a ReLU are mostly near 0
    return vectors, targets, patients


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--views", type=int, default=100_000)
    asked.add_argument("--features", type=int, default=768)
    asked.add_argument("--findings", type=int, default=14)
    args = asked.parse_args()
    vectors, targets, patients = synthetic(args.views, args.features, args.findings)
    kept = vectors[: args.views // 10].copy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    ratios = np.clip((targets == 0).sum(axis=0) / np.maximum((targets == 1).sum(axis=0), 1), 1 / 20, 20)
    fitted = fit_heads(vectors, targets, patients, positive_weights=ratios, step=print)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{args.views:,} views x {args.features}, {args.findings} findings: {wall:.0f} s, {cpu:.0f} s of CPU")
    print(f"{after / 1024:.0f} MB at most, {before / 1024:.0f} MB of it before the fit")
    probs = fitted.heads.probs(kept)
    for number, strength in enumerate(fitted.strengths):
        known = ~np.isnan(targets[: len(kept), number])
        area = auroc(targets[: len(kept), number][known] == 1, probs[known, number])
        print(f"finding {number}: strength {strength:g}, AUROC {area:.3f} on views that were fitted")


if __name__ == "__main__":
    main()
