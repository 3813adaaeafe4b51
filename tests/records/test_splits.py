"""A patient is in one part of an archive, today and for ever."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrpipe.records.splits import assign

KEYS = [f"patient {number}" for number in range(20_000)]
seeds = st.integers(0, 2**32)


@given(st.lists(st.tuples(st.sampled_from(KEYS[:30]), st.text()), max_size=60), seeds)
def test_all_studies_of_a_patient_are_in_one_split(studies, seed):
    parts: dict[str, set[str]] = {}
    for patient, _ in studies:
        parts.setdefault(patient, set()).add(assign(None, patient, seed))
    assert all(len(found) == 1 for found in parts.values())


def test_the_shares_are_80_10_10():
    counts = Counter(assign(None, key, 0) for key in KEYS)
    shares = [counts[split] / len(KEYS) for split in ("train", "valid", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_what_the_archive_trains_on_is_cut_eight_to_one_and_never_tested():
    counts = Counter(assign("train_valid", key, 0) for key in KEYS)
    assert set(counts) == {"train", "valid"}
    assert counts["valid"] / len(KEYS) == pytest.approx(1 / 9, abs=0.01)


@given(st.sampled_from(["train", "valid", "test"]), st.text(), seeds)
def test_an_official_split_stands(official, key, seed):
    assert assign(official, key, seed) == official


@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_of_a_patient_never_changes(seed):
    """As published with version 0.1: another result would leak test patients into training."""
    keys = ["00000001", "00000002", "00000004", "00000013", "person12_bacteria", "IM-0115", "MCUCXR_0001_0", "Ö"]
    expected = {
        0: ["train", "valid", "test", "train", "test", "train", "train", "train"],
        1: ["train", "train", "train", "valid", "train", "train", "test", "train"],
    }
    assert [assign(None, key, seed) for key in keys] == expected[seed]


def test_another_seed_gives_another_split():
    first, other = ([assign(None, key, seed) for key in KEYS[:1000]] for seed in (0, 1))
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 200
