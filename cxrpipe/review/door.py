"""What lets a reader in: a token in the printed address, or a password. Afterwards a signed cookie knows the reader."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque

_LASTS_S = 24 * 3600
_WRONG, _WITHIN_S = 10, 60
_FUTURE_S = 60


class Door:
    """One word lets in everybody who has it: a token made at each start, or the password of a file.

    The cookie is a random number and a time, signed with a key. The key of a token is made at each start. The key of
    a password is made from the password, so readers stay signed in over a restart.
    """

    def __init__(self, port: int, password: str | None = None, is_secure: bool = False) -> None:
        """
        is_secure  whether readers come by https, so that their browsers may keep the cookie from http
        """
        self.is_secure = is_secure
        self.cookie = f"{'__Host-' if is_secure else ''}cxrpipe-review-{port}"  # cookies do not know of ports
        self.asks_for_password = password is not None
        self._word = secrets.token_urlsafe(32) if password is None else password
        self._key = _stretched(password) if password is not None else secrets.token_bytes(32)
        self._wrong: deque[float] = deque()

    @property
    def token(self) -> str | None:
        """What the printed address ends with; None where readers have a password."""
        return None if self.asks_for_password else self._word

    def opens_for(self, word: str) -> bool:
        """Whether this is the token or the password. A wrong word counts against all readers of the next minute."""
        is_right = hmac.compare_digest(word.encode(errors="replace"), self._word.encode())
        if not is_right:
            self._wrong.append(time.monotonic())
        return is_right

    def is_besieged(self) -> bool:
        """Whether so many wrong words came that no more are looked at for now."""
        while self._wrong and self._wrong[0] < time.monotonic() - _WITHIN_S:
            self._wrong.popleft()
        return len(self._wrong) >= _WRONG

    def new_session(self) -> str:
        """The cookie of a reader who came in."""
        facts = f"{secrets.token_urlsafe(16)}.{int(time.time())}"
        return f"{facts}.{self._signed('session', facts)}"

    def knows(self, session: str) -> bool:
        """Whether this cookie was given, less than a day ago, by this door."""
        facts, _, signature = session.rpartition(".")
        made = facts.rpartition(".")[2]
        if not hmac.compare_digest(signature.encode(errors="replace"), self._signed("session", facts).encode()):
            return False
        return -_FUTURE_S <= time.time() - int(made) < _LASTS_S

    def csrf(self, session: str) -> str:
        """The word that a page of this session sends with every POST. Another site cannot read it."""
        return self._signed("csrf", session)

    def _signed(self, purpose: str, text: str) -> str:
        content = f"{purpose} {text}".encode(errors="replace")
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()


def _stretched(password: str) -> bytes:
    """0.05 s and 16 MB for each guess by somebody who has a cookie and looks for the password."""
    return hashlib.scrypt(password.encode(), salt=b"cxrpipe review", n=2**14, r=8, p=1, dklen=32)
