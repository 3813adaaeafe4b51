"""Sets of identifiers that take 16 bytes an identifier, so that millions of studies fit in memory and in a message."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

_BYTES = 16


class IdSet:
    """A set of strings, stored as 128-bit hashes. Among 10¹² strings two hashes collide with a chance of 10⁻¹⁴."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._hashes = _sorted_once(_hashes(strings))

    @classmethod
    def union(cls, sets: Iterable["IdSet"]) -> "IdSet":
        united = cls()
        united._hashes = _sorted_once(np.concatenate([united._hashes, *(ids._hashes for ids in sets)]))
        return united

    def __len__(self) -> int:
        return len(self._hashes)

    def places(self, strings: Sequence[str]) -> np.ndarray:
        """(N,) int64: the place of every string in the set, 0 to len - 1; -1 for a string that is not in the set."""
        if not len(self):
            return np.full(len(strings), -1, np.int64)
        wanted = _hashes(strings)
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        return np.where(self._hashes[places] == wanted, places, -1)

    def contains(self, strings: Sequence[str]) -> np.ndarray:
        """(N,) bool"""
        return self.places(strings) >= 0


def _hashes(strings: Iterable[str]) -> np.ndarray:
    """(N,) S16, which numpy can sort. numpy strips trailing zero bytes and restores them, so no hash is lost."""
    joined = b"".join(hashlib.blake2b(string.encode(), digest_size=_BYTES).digest() for string in strings)
    return np.frombuffer(joined, f"S{_BYTES}")


def _sorted_once(hashes: np.ndarray) -> np.ndarray:
    """The hashes in order, each once. `np.unique` fills a hash table first, and takes eight times as long."""
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]
