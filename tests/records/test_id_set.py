"""Sets of identifiers by their hashes: what a Python set says, in sixteen bytes each."""

import pickle

import numpy as np
import pytest

from cxrpipe.records.id_set import IdSet

NAMES = [f"1.2.840.{number}" for number in range(5_000)]


def test_a_string_is_in_it_exactly_when_it_was_put_in():
    found = IdSet(NAMES[::2]).contains(NAMES)
    assert found.tolist() == [number % 2 == 0 for number in range(len(NAMES))]


def test_a_string_put_in_twice_counts_once():
    assert len(IdSet([*NAMES, *NAMES])) == len(NAMES)


def test_every_string_has_a_place_of_its_own():
    places = IdSet(reversed(NAMES)).places(NAMES)
    assert sorted(places) == [*range(len(NAMES))]
    assert np.array_equal(places, IdSet(NAMES).places(NAMES))


@pytest.mark.parametrize("strings", [[], ["a"], NAMES])
def test_nothing_is_in_an_empty_one(strings):
    assert not IdSet().contains(strings).any()
    assert IdSet().contains(strings).shape == (len(strings),)


def test_a_union_has_what_any_of_them_has():
    united = IdSet.union([IdSet(NAMES[:9]), IdSet(), IdSet(NAMES[5:20])])
    assert len(united) == 20
    assert united.contains(NAMES).sum() == 20


def test_it_travels_in_sixteen_bytes_a_string():
    data = pickle.dumps(IdSet(NAMES))
    assert len(data) < 17 * len(NAMES)
    assert pickle.loads(data).contains(NAMES).all()
