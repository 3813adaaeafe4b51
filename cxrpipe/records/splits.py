"""Decides which split of an archive a patient belongs to: train, valid or test. No patient is in two splits."""

import hashlib
from collections.abc import Iterable

TRAIN_SHARE, VALID_SHARE = 0.8, 0.1
REFIT = "refit"
"""First word of what a `split_seed` adds for a model that learned from the train and the valid split."""


def assign(official: str | None, key: str, seed: int) -> str:
    """The split of a study: that of the archive where it has one, else 80/10/10 by hash.

    official  `train`, `valid`, `test`; `train_valid`: the archive leaves the choice of `valid` to us, and the same
              hash decides; None: the archive has no split
    key       the patient id of the archive, or the study id where no patient is known
    """
    if official in ("train", "valid", "test"):
        return official
    place = _uniform(key, seed)
    if official == "train_valid":
        place *= TRAIN_SHARE + VALID_SHARE
    if place < TRAIN_SHARE:
        return "train"
    return "valid" if place < TRAIN_SHARE + VALID_SHARE else "test"


def more_held_out(first: str, second: str) -> str:
    """The split that keeps a patient out of training, where a table gives the patient two."""
    return max(first, second, key=("train", "train_valid", "valid", "test").index)


def _uniform(key: str, seed: int) -> float:
    """Hash the key to a number of 0..1, the same on every machine and for ever."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def folds(keys: Iterable[str], number: int, seed: int) -> dict[str, int]:
    """Patient → fold, 0 to number - 1. Sizes differ by one patient at most. The order of the keys does not matter."""
    shuffled = sorted(set(keys), key=lambda key: (_uniform(f"fold {key}", seed), key))
    return {key: place % number for place, key in enumerate(shuffled)}


def keeps_apart(trained: str, judged: str) -> bool:
    """Whether a model has not seen the test studies that it is judged on.

    trained, judged  `split_seed` of the table that the model learned from, and of the table with the test studies

    The same split keeps training and test studies apart. Folds over all the archive leave no other test studies, and
    neither does a refit of them. Other folds, and their refit, leave the test studies of the table they were cut from.
    """
    seed, _, fold = trained.partition("; ")
    return trained == judged or (seed == judged and " over all" not in fold)


def is_refit(trained: str) -> bool:
    """Whether a model learned from the whole train and valid split of its table.

    trained  `split_seed` of the table that the model learned from
    """
    return trained.partition("; ")[2].startswith(REFIT)
