"""Near-duplicates across splits: planted copies are found, and ordinary films are not."""

import numpy as np
import pytest

from cxrpipe.evaluation import near_duplicates
from cxrpipe.evaluation.near_duplicates import EmbeddedViews, find

DIMENSIONS = 64


def ordinary(studies: int, seed: int = 0, dimensions: int = 12) -> EmbeddedViews:
    """Views of as many patients, as a network sees them: on a surface of a few dimensions, and above zero."""
    random = np.random.default_rng(seed)
    surface = random.normal(size=(dimensions, DIMENSIONS))
    vectors = np.maximum(random.normal(size=(studies, dimensions)) @ surface + 2, 0)
    split = random.choice(3, studies, p=[0.8, 0.1, 0.1])
    return EmbeddedViews(vectors.astype(np.float16), np.arange(studies), np.arange(studies), split)


def with_copies(
    views: EmbeddedViews, copied: list[int], *, patient: int | None = None, split: int = 1
) -> EmbeddedViews:
    """Copies of views as new studies; the noise is that of another size and encoding, 2% of a vector."""
    random, new = np.random.default_rng(1), np.arange(len(copied)) + len(views.study)
    vectors = views.vectors[copied] * (1 + 0.02 * random.normal(size=(len(copied), DIMENSIONS)))
    patients = new if patient is None else np.full(len(copied), patient)
    return EmbeddedViews(
        np.concatenate([views.vectors, vectors.astype(np.float16)]),
        np.concatenate([views.study, new]),
        np.concatenate([views.patient, patients]),
        np.concatenate([views.split, np.full(len(copied), split)]),
    )


def in_train(views: EmbeddedViews, count: int) -> list[int]:
    return np.flatnonzero(views.split == 0)[:count].tolist()


@pytest.mark.parametrize("studies", [200, 3_000])
def test_copies_under_other_patients_in_another_split_are_found(studies):
    views = ordinary(studies)
    copied = in_train(views, 5)
    found = find(with_copies(views, copied))
    assert found is not None
    assert {frozenset((pair.study, pair.other)) for pair in found.nearest} == {
        frozenset((place, studies + number)) for number, place in enumerate(copied)
    }
    assert found.studies == 5
    assert all(pair.distance < found.limit for pair in found.nearest)


def test_in_ordinary_films_there_is_less_than_one_pair_in_twenty_archives():
    assert sum(find(ordinary(1_000, seed)).studies for seed in range(20)) <= 3  # 1 expected; 4 and more: 2% by chance


def test_what_is_found_is_among_the_nearest_of_all_pairs():
    views = ordinary(1_000)
    unit = views.vectors / np.linalg.norm(views.vectors.astype(np.float32), axis=1, keepdims=True)
    distances = (1 - unit @ unit.T)[np.triu_indices(1_000, 1)]
    assert find(views).limit < np.quantile(distances, near_duplicates.NEAREST)


def test_a_patient_in_two_splits_and_copies_in_one_split_are_no_finding():
    views = ordinary(500)
    (copied,) = in_train(views, 1)
    assert find(with_copies(views, [copied], patient=copied)).studies == 0
    assert find(with_copies(views, [copied], split=0)).studies == 0


def test_blocks_change_nothing(monkeypatch):
    views = with_copies(ordinary(400), in_train(ordinary(400), 3))
    whole = find(views)
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 7)
    in_blocks = find(views)
    assert in_blocks._replace(nearest=()) == whole._replace(nearest=())
    for one, other in zip(in_blocks.nearest, whole.nearest, strict=True):
        assert (one.study, one.other) == (other.study, other.other)
        assert one.distance == pytest.approx(other.distance, abs=1e-6)


def test_every_view_is_counted_once():
    views, counted = ordinary(300), []
    find(views, counted.append)
    assert sum(counted) == 300


@pytest.mark.parametrize("views", [ordinary(12), ordinary(400)._replace(split=np.zeros(400, int))])
def test_too_few_views_and_a_single_split_tell_nothing(views):
    assert find(views) is None


def test_vectors_that_are_all_alike_tell_nothing():
    views = ordinary(400)
    assert find(views._replace(vectors=np.ones_like(views.vectors))) is None
