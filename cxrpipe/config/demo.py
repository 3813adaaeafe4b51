"""Settings of `demo`."""

from dataclasses import dataclass

from cxrpipe.config.values import LocalPath, Url


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Index, train three models, adopt one from ONNX, score and evaluate on small synthetic archives. Takes minutes.

    Example: cxrpipe demo --out demo
    """

    out: LocalPath = "demo"
    """Folder for everything that the demo makes."""

    archive: Url | None = None
    """An archive of your own, scored afterwards with the demo's models. Their probabilities mean nothing."""

    workers: int = 2
    """Training processes."""
