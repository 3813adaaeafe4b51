"""Reads objects ahead of whoever uses them: several at a time, in order, within a limit of memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cxrpipe.storage import Object

T = TypeVar("T")

_THREADS = 4
"""On S3 a thread mostly waits for an answer; on disk cores share the work, for Arrow decodes without Python's lock."""
_AHEAD_BYTES = 64 << 20
"""Bytes of objects that are read and not used yet, as they lie in the store. Decoded rows take up to twice as many."""


def read_ahead(read: Callable[[Object], T], objects: Iterable[Object]) -> Iterator[T]:
    """Call `read` for every object in threads, and yield what it returns in the order of the objects.

    Threads are ahead by at most 8 objects and 64 MB; a larger object is read alone. What `read` raises is raised here.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
    ahead: deque[tuple[int, Future[T]]] = deque()
    ahead_bytes = 0
    try:
        for object_ in objects:
            while ahead and (ahead_bytes + object_.size > _AHEAD_BYTES or len(ahead) >= 2 * _THREADS):
                size, future = ahead.popleft()
                yield future.result()
                ahead_bytes -= size
            ahead.append((object_.size, pool.submit(read, object_)))
            ahead_bytes += object_.size
        while ahead:
            yield ahead.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
