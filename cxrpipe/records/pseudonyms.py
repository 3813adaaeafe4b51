"""Pseudonyms that only the holder of a key can compute: the first 128 bits of HMAC-SHA256, in hex."""

import hashlib
import hmac
import stat
from dataclasses import replace
from pathlib import Path

from cxrpipe.errors import ConfigError
from cxrpipe.records import Study, digest
from cxrpipe.records.splits import assign

_LEAST_BYTES = 32
_HEX_DIGITS = 32
_KEY_ID = "the id of a key of cxrpipe"


class Pseudonyms:
    """Makes pseudonyms with one key. Equal ids have equal pseudonyms, whether they name studies or patients."""

    def __init__(self, key: bytes, split_seed: int) -> None:
        self._key, self._split_seed = key, split_seed

    @property
    def key_id(self) -> str:
        """Tells keys apart without revealing anything about a key."""
        return self.of(_KEY_ID)[:8]

    def of(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:_HEX_DIGITS]

    def maybe(self, text: str | None) -> str | None:
        return self.of(text) if text else None

    def ids(self, study: Study) -> Study:
        """The study with pseudonyms in place of its id, its patient's id and the ids of its SOP instances."""
        return replace(
            study,
            study_id=self.of(study.study_id),
            patient_id=self.maybe(study.patient_id),
            views=tuple(replace(view, sop_instance_uid=self.maybe(view.sop_instance_uid)) for view in study.views),
        )

    def with_digest(self, study: Study) -> Study:
        return replace(study, study_digest=self.of(digest(study.views)))

    def split(self, patient_or_study: str) -> str:
        """The split by the id that the archive uses, so that a pseudonym is in the same split as its id."""
        return assign(None, patient_or_study, self._split_seed)


def read_key(path: str, split_seed: int) -> Pseudonyms:
    """Read a key file; ConfigError where it is absent, readable for everybody, or too short to be a secret."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such key file; make one: (umask 077; head -c 32 /dev/urandom > {path})")
    if file.stat().st_mode & stat.S_IROTH:
        raise ConfigError(f"{path}: everybody may read this key; expected a secret: chmod 600 {path}")
    key = file.read_bytes()
    if len(key) < _LEAST_BYTES:
        raise ConfigError(f"{path}: a key of {len(key)} bytes; expected at least {_LEAST_BYTES} random ones")
    return Pseudonyms(key, split_seed)
