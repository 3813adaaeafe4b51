"""A cache of encoded pictures that is bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable


class ByteCache:
    """Keeps the values that were used last. Threads may share it.

    at_most_bytes  of all values together; a larger value is not kept
    """

    def __init__(self, at_most_bytes: int) -> None:
        self._at_most_bytes, self._bytes = at_most_bytes, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: bytes) -> None:
        """Keep a value. The values that were not used for the longest time make room."""
        if len(value) > self._at_most_bytes:
            return
        with self._lock:
            self._bytes += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._bytes > self._at_most_bytes:
                self._bytes -= len(self._values.popitem(last=False)[1])

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return self._bytes
