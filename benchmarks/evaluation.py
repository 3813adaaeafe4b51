"""Whether intervals are what they claim, and how long they take: python benchmarks/evaluation.py --coverage | --time.

--coverage  how often the 95% interval covers the truth over simulated archives, whose studies come in clusters of 1 to
            6 per patient: labels and probabilities of one patient resemble each other
--time      30,000 studies of 12,000 patients x 14 findings x 2,000 resamples, issue 6's bound: a minute
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from cxrpipe.evaluation.clustered import auroc
from cxrpipe.evaluation.findings import evaluate_findings

POSITIVE = 0.3
SHIFT = 1.2
"""Between the two classes, in standard deviations of the score."""
SHARED = 0.6
"""Of the variance, of label and score, that a patient's studies share."""
NOISE = 0.7
"""Standard deviation of the second model's own noise."""


def draw(patients: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Patient, label and the scores of two models, of each study."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 7, patients))

    def clustered() -> np.ndarray:
        own = rng.normal(size=len(patient))
        return np.sqrt(SHARED) * rng.normal(size=patients)[patient] + np.sqrt(1 - SHARED) * own

    label = clustered() < norm.ppf(POSITIVE)
    score = clustered() + SHIFT * label
    return patient, label, score, score + NOISE * rng.normal(size=len(patient))


def truth() -> dict[str, float]:
    """Of the population, by formula; average precision of four million studies."""
    _, label, score, _ = draw(1_200_000, 12345)
    descending = label[np.argsort(-score)]
    precision = np.cumsum(descending) / np.arange(1, len(label) + 1)
    probs = norm.cdf(score)
    return {
        "auroc": norm.cdf(SHIFT / np.sqrt(2)),
        "auprc": precision[descending].mean(),
        "brier": ((probs - label) ** 2).mean(),
        "sensitivity": norm.cdf(SHIFT),
        "specificity": 0.5,
        "precision": 1 / (1 + (1 - POSITIVE) / POSITIVE * 0.5 / norm.cdf(SHIFT)),
        "second model": norm.cdf(SHIFT / np.sqrt(2)) - norm.cdf(SHIFT / np.sqrt(2 * (1 + NOISE**2))),
    }


def one_simulation(true: dict[str, float], patients: int, resamples: int, seed: int) -> dict[str, bool]:
    """Figure → whether its interval covers the truth."""
    patient, label, score, second = draw(patients, seed)
    probs = norm.cdf(score).astype(np.float32)
    table = pa.table(
        {
            "study_id": [f"s{number:06d}" for number in range(len(label))],
            "patient_id": [f"p{each}" for each in patient],
            "label_Mass": pa.array(label.astype(np.float32)),
            "prob_Mass": probs,
            "consensus_Mass": probs >= 0.5,
        }
    )
    (figures,) = evaluate_findings(table, ["Mass"], resamples=resamples, seed=10**6 + seed)
    found = {name: getattr(figures, name) for name in true if hasattr(figures, name)}
    models = [auroc(label, scores, patient, patients) for scores in (score, second)]
    found["second model"] = (models[0] - models[1]).estimate()
    found["auroc, Obuchowski"] = models[0].fraction_estimate()
    return {name: each.low <= true[name.partition(",")[0]] <= each.high for name, each in found.items()}


def coverage(simulations: int, patients: int, resamples: int) -> None:
    true = truth()
    job = partial(one_simulation, true, patients, resamples)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(job, range(simulations), chunksize=10))
    print(f"{simulations} simulations of {patients} patients with 1 to 6 studies, {resamples} resamples")
    for name in found[0]:
        print(f"{name:20} {np.mean([each[name] for each in found]):.1%}")


def seconds() -> None:
    rng = np.random.default_rng(0)
    studies, findings = 30_000, [f"Finding_{number}" for number in range(14)]
    columns = {
        "study_id": [f"s{study:06d}" for study in range(studies)],
        "patient_id": [f"p{patient}" for patient in rng.integers(12_000, size=studies)],
    }
    for finding in findings:
        label = rng.random(studies) < 0.2
        probs = rng.beta(2 + label, 4).astype(np.float32)
        columns |= {f"label_{finding}": label, f"prob_{finding}": probs, f"consensus_{finding}": probs >= 0.5}
    table = pa.table(columns)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    evaluate_findings(table, findings)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{time.perf_counter() - started:.1f} s, {after / 1024:.0f} MB at most, {before / 1024:.0f} MB of it before")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--coverage", action="store_true")
    asked.add_argument("--time", action="store_true")
    asked.add_argument("--simulations", type=int, default=1_000)
    asked.add_argument("--patients", type=int, default=200)
    asked.add_argument("--resamples", type=int, default=2_000)
    args = asked.parse_args()
    if args.coverage:
        coverage(args.simulations, args.patients, args.resamples)
    if args.time:
        seconds()


if __name__ == "__main__":
    main()
