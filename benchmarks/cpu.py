"""CPU seconds of this process and of all below it, by the part that they play in a job on Ray."""

import threading
from collections import Counter
from typing import Self

import psutil

_OF_RAY = {"Preparer": "prepare", "Predictor": "predict", "_land": "finish, land"}
"""Words in the title that Ray gives to a worker → its part."""
_PROGRAMS = {"cxrpipe.images.decoder": "decode", "gcs_server": "Ray's own", "raylet/raylet": "Ray's own"}
"""Words in the command of any other process → its part."""


class CpuSeconds:
    """Adds up CPU seconds by part. A process that ends between two looks keeps what it had at the last.

    Within `with`, a thread looks once a second.
    """

    def __init__(self) -> None:
        self._parts: dict[int, str] = {}
        self._seconds: dict[int, float] = {}
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.look()

    def look(self) -> Counter[str]:
        """Part → CPU seconds so far. A worker keeps the part that it played first: idle workers lose their title."""
        driver = psutil.Process()
        for process in [driver, *driver.children(recursive=True)]:
            try:
                times, title = process.cpu_times(), " ".join(process.cmdline())
            except psutil.Error:
                continue
            part = "driver" if process.pid == driver.pid else self._parts.get(process.pid) or _part(title)
            if part:
                self._parts[process.pid] = part
            self._seconds[process.pid] = times.user + times.system
        total: Counter[str] = Counter()
        for pid, seconds in self._seconds.items():
            total[self._parts.get(pid, "Ray's other workers")] += seconds
        return total


def _part(title: str) -> str | None:
    """None: the process plays no part yet, or a small one."""
    words = _OF_RAY if title.startswith("ray::") else _PROGRAMS
    command = title if title.startswith("ray::") else title[:2_000].partition(" --")[0]
    return next((part for word, part in words.items() if word in command), None)


def table(before: Counter[str], after: Counter[str], studies: int) -> str:
    """Lines of `part  ms for each study`, the largest first, and their sum."""
    spent = Counter(after)
    spent.subtract(before)
    lines = [f"{part:22}{1_000 * seconds / studies:8.3f} ms" for part, seconds in spent.most_common()]
    return "\n".join([*lines, f"{'all':22}{1_000 * spent.total() / studies:8.3f} ms"])
