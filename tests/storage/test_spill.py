"""What spills to disk behaves as its counterpart in memory."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from cxrpipe.storage import spill

texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=20)


@given(texts)
def test_seen_is_a_set(keys):
    with contextlib.closing(spill.Seen()) as seen:
        assert [key for key in keys if seen.add(key)] == list(dict.fromkeys(keys))
        assert len(seen) == len(set(keys))


@given(texts)
def test_groups_stand_in_the_order_of_first_appearance(keys):
    expected: dict[str, list[int]] = {}
    with contextlib.closing(spill.Groups()) as groups:
        for number, key in enumerate(keys):
            groups.add(key, number)
            expected.setdefault(key, []).append(number)
        assert list(groups) == list(expected.items())


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=3), st.text(max_size=1)), max_size=20))
def test_rows_are_sorted_as_python_sorts_them(rows):
    rows = [row for row in rows if all(ord(letter) not in range(0xD800, 0xE000) for text in row for letter in text)]
    assert list(spill.in_order(rows)) == sorted(rows)
