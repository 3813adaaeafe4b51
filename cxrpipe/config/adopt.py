"""Settings of `adopt`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cxrpipe.config.checks import at_least, between, known_words, more_than
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Name, Url
from cxrpipe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Take in a model of others: write a model folder from torchxrayvision, timm, a hub, ONNX or a state dict.

    Example: cxrpipe adopt xrv:densenet121-res224-all --trust-pickle --out models/xrv

    SOURCE is xrv:NAME or xrv:FILE (torchxrayvision), timm:NAME, hf:OWNER/NAME or a folder with config.json
    (Hugging Face), onnx:FILE, or torchvision:ARCH with --weights FILE. The card says how films are prepared; adopt
    takes this from the source where the source says so, and prints what it assumed elsewhere. docs/models.md describes
    every source.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "source out findings weights dry_run trust_pickle",
        "how the model wants its films, where the source does not say so or is wrong": (
            "side_px mean std fit crop_fraction resize intensity output"
        ),
    }

    source: Name = field(metadata={"bare_words": "SOURCE"})
    """The model to take in."""

    out: Url | None = None
    """Folder for the model. Needed without --dry-run."""

    findings: tuple[str, ...] = field(default=(), metadata={"empty_items": True})
    """Findings of the network's outputs in their order, an empty one for an output to drop: Pneumonia,,Mass. Or the
    source's names for some outputs with the names to use: Opacity=Lung_Opacity,Other= (an empty one drops an output).
    Without --findings: those of the source, spelled as in study tables."""

    weights: Url | None = None
    """Weights file of torchvision:ARCH, .safetensors or .pth, or of timm:NAME, .safetensors."""

    dry_run: bool = False
    """Print the card, and write nothing."""

    trust_pickle: bool = False
    """Open a pickled module, which runs code of its author. It is opened in a process of its own, without credentials.
    Name files that you trust."""

    side_px: int | None = None
    """Side of the square that the network takes."""

    mean: tuple[float, ...] = ()
    """Mean of the training pixels, scaled to 0..1: one number for all channels, or one for each."""

    std: tuple[float, ...] = ()
    """Standard deviation of the training pixels, scaled to 0..1: one number for all channels, or one for each."""

    fit: Literal["letterbox", "center-crop", "squash"] | None = None
    """How a film becomes a square. letterbox: whole, on black. center-crop: the square in its middle. squash: its
    aspect ratio is lost."""

    crop_fraction: float | None = None
    """Of --fit center-crop: the side of the square as a fraction of the resized shorter edge (timm: crop_pct)."""

    resize: Name | None = None
    """How pixels are resized: area, or the resizer of the library that trained the model (docs/models.md)."""

    intensity: Name | None = None
    """How stored values become 8 bits: voi, xrv, nih, padchest, chexpert_v1 or mimic_v2."""

    output: Literal["sigmoid", "softmax"] | None = None
    """What turns outputs into probabilities. sigmoid: each output by itself. softmax: all outputs together."""

    def __post_init__(self) -> None:
        known_words(self)
        if not self.out and not self.dry_run:
            raise ConfigError("name --out MODEL for the model folder, or --dry-run to see its card alone")
        if self.side_px is not None:
            at_least("side_px", self.side_px, 1)
        if self.crop_fraction is not None:
            between("crop_fraction", self.crop_fraction, 0.1, 1)
        for std in self.std:
            more_than("std", std, 0)
