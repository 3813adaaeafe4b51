"""Settings of `review`."""

import ipaddress
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Id, LocalPath, Name, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """Show a score root in a browser, and take readers' verdicts.

    Example: cxrpipe review scores --studies studies.parquet

    The program prints an address with a token, which lets a browser of this machine in. It shows complete runs, also
    those that end while it is open. Verdicts are kept in ROOT/reviews. Ctrl-C ends it.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "source studies port",
        "what is shown": "fingerprint allow_notes",
        "reading lists": "sample by finding seed",
        "readers on other machines": "host name certificate key password_file",
    }

    source: Url = field(metadata={"bare_words": "ROOT"})
    """Score root to show."""

    studies: Url | None = None
    """Study table that was scored. Adds labels, split, age and sex to the pages, and pictures where the score root
    names no object: after scoring a pseudonymised table."""

    port: int = 8400
    """Port to listen on. 0: any free one."""

    fingerprint: Id | None = None
    """Models whose rows are shown, where the score root holds those of several."""

    allow_notes: bool = False
    """Take notes with verdicts although the study ids are pseudonyms. A note can name a patient."""

    sample: int = 0
    """Studies to draw into a reading list, which is kept in ROOT/reviews and opened. The same request opens the list
    that it drew before. Labels of verdicts on it speak for the whole root, because the chance of each study is kept."""

    by: Literal["uncertainty", "disagreement", "random", "stratified"] = "stratified"
    """--sample: how studies are drawn. uncertainty: more often where the answer is close to the threshold.
    disagreement: more often where the members disagree. random: all alike. stratified: as many positive as negative
    ones, and as many near the threshold as far from it."""

    finding: Name | None = None
    """--sample: finding whose answers decide the chances. Without --finding: of every study its highest."""

    seed: int = 0
    """--sample: seed of the draw."""

    host: Name = "127.0.0.1"
    """Address to listen on. Any other than 127.0.0.1, ::1 or localhost lets other machines reach the scores, pictures
    and verdicts of this root, and needs --certificate, --key and --password-file."""

    name: Name | None = None
    """Name of this machine in the address that readers open, as in the certificate. Without --name: the value of
    --host."""

    certificate: LocalPath | None = None
    """Certificate in PEM, for https."""

    key: LocalPath | None = None
    """Private key of the certificate, in PEM."""

    password_file: LocalPath | None = None
    """File that holds one password of at least 12 characters for all readers, in place of the token. Readers stay
    signed in when the program starts again."""

    def __post_init__(self) -> None:
        checks.known_words(self)
        checks.between("port", self.port, 0, 65535)
        checks.at_least("sample", self.sample, 0)
        if not self.sample and (self.finding is not None or self.seed):
            raise ConfigError("--finding and --seed of review belong to --sample N, the number of studies to draw")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--certificate and --key go together")
        if self.is_local:
            return
        missing = [checks.flag(name) for name in ("certificate", "password_file") if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"--host {self.host} lets other machines reach every score, picture and verdict of this root; it needs "
                f"{' and '.join(missing)}. Or keep 127.0.0.1 and forward the port: ssh -L {self.port}:localhost:"
                f"{self.port} THIS_MACHINE"
            )
        if self.is_any_address and self.name is None:
            raise ConfigError(
                f"--host {self.host} is every address of this machine; say with --name which one readers open"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the program."""
        address = self._address
        return self.host == "localhost" if address is None else address.is_loopback

    @property
    def is_any_address(self) -> bool:
        address = self._address
        return address is not None and address.is_unspecified

    @property
    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None
