"""Many readers at once, and a server that is killed under them."""

import http.client
import re
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from answered import FINGERPRINT, answered_root
from reading_room import Browser, reviewing

from cxrpipe.runs.reviews import Reviews
from cxrpipe.runs.root import ScoreRoot

READERS, STUDIES, FINDINGS = 20, 50, ("Pneumonia", "Mass")
EVERY = READERS * STUDIES * len(FINDINGS)
PASSWORD = "correct horse battery"


class Reader(threading.Thread):
    """Gives a verdict on every finding of every study, and sends each until the server has taken it."""

    def __init__(self, port: int, name: str, over: threading.Event) -> None:
        super().__init__()
        self.browser, self.reader, self.over = Browser(port), name, over
        self.taken: list[str] = []
        self.sent = 0

    def run(self) -> None:
        self.until_done(self.enter)
        for study in range(STUDIES):
            for finding in FINDINGS:
                said = {
                    "id": uuid.uuid4().hex,
                    "reader": self.reader,
                    "verdicts": [
                        {
                            "study_id": f"s{study:05d}",
                            "finding": finding,
                            "verdict": ("agree", "wrong", "unsure")[study % 3],
                            "fingerprint": FINGERPRINT,
                        }
                    ],
                }
                self.until_done(lambda said=said: self.send(said))
                self.taken.append(said["id"])

    def until_done(self, act) -> None:
        while not self.over.is_set():
            try:
                return act()
            except (OSError, http.client.HTTPException):
                self.over.wait(0.05)  # the server is away

    def enter(self) -> None:
        self.browser.cookie = self.browser.post("/enter", f"password={PASSWORD}".encode()).cookie
        self.browser.get("/studies")

    def send(self, said) -> None:
        self.sent += 1
        answer = self.browser.post("/verdicts", said)
        assert answer.status == 200, answer


@pytest.mark.slow
def test_twenty_readers_lose_nothing_when_the_server_is_killed_twice(tmp_path):
    probs = np.random.default_rng(0).random((2, STUDIES))
    root = answered_root(tmp_path / "root", dict.fromkeys(FINDINGS, probs))
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    kept = Path(root) / "reviews" / "verdicts"
    over, port, readers = threading.Event(), "0", []
    try:
        for kill_at in (EVERY // 4, EVERY // 2, None):
            with reviewing(root, "--port", port, "--password-file", str(password)) as (address, server):
                port = re.search(r":(\d+)/", address)[1]
                if not readers:
                    readers = [Reader(int(port), f"reader {number}", over) for number in range(READERS)]
                    for reader in readers:
                        reader.start()
                if kill_at is None:
                    for reader in readers:
                        reader.join(timeout=300)
                else:
                    while len(list(kept.glob("*.parquet"))) < kill_at:
                        over.wait(0.02)
                    server.kill()
    finally:
        over.set()
    assert [len(reader.taken) for reader in readers] == [STUDIES * len(FINDINGS)] * READERS
    assert sum(reader.sent for reader in readers) > EVERY  # a killed server makes readers send again
    verdicts = Reviews(ScoreRoot.at(root)).history()
    assert verdicts.num_rows == EVERY
    assert sorted(verdicts["verdict_id"].to_pylist()) == sorted(name for reader in readers for name in reader.taken)
    assert Reviews(ScoreRoot.at(root)).read().num_rows == EVERY
