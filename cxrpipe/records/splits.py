"""Which part of an archive a patient belongs to: train, valid or test. Never two parts for one patient."""

import hashlib
from collections.abc import Iterable

TRAIN_SHARE, VALID_SHARE = 0.8, 0.1


def assign(official: str | None, key: str, seed: int) -> str:
    """The split of a study: the archive's own where it has one, else 80/10/10 by hash.

    official  `train`, `valid`, `test`; `train_valid`: the archive leaves the validation part to us, which is cut
              out by the same hash; None: the archive has no split
    key       the archive's own patient id, or the study id where no patient is known
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
    """Of two splits that a table gives one patient, the one that keeps the patient out of training."""
    return max(first, second, key=("train", "train_valid", "valid", "test").index)


def _uniform(key: str, seed: int) -> float:
    """0..1, the same on every machine and for ever."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def folds(keys: Iterable[str], number: int, seed: int) -> dict[str, int]:
    """Patient → fold, 0 to number - 1; folds differ by one patient at most, and not with the order of the keys."""
    shuffled = sorted(set(keys), key=lambda key: (_uniform(f"fold {key}", seed), key))
    return {key: place % number for place, key in enumerate(shuffled)}


def keeps_apart(trained: str, judged: str) -> bool:
    """Whether a model has not seen the test studies that it is judged on.

    trained, judged  `split_seed` of the table that it learned from, and of the one with the test studies

    The same split keeps them apart. Folds over all the archive leave no other test studies; other folds leave those
    of the table that they were cut from.
    """
    seed, _, fold = trained.partition("; ")
    return trained == judged or (seed == judged and " over all" not in fold)
