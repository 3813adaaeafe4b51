"""Finds the kind of a source by its scheme: `xrv:`, `torchvision:`, `timm:`, `hf:` (or none) or `onnx:`."""

from collections.abc import Callable

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt import hub, onnx, timm, torchvision, xrv
from cxrpipe.models.adopt.adopted import Adopted

SOURCES: dict[str, Callable[[str, AdoptConfig], Adopted]] = {
    "xrv": xrv.adopt,
    "torchvision": torchvision.adopt,
    "timm": timm.adopt,
    "hf": hub.adopt,
    "onnx": onnx.adopt,
}
_CODE = (".pt2", ".torchscript", ".ts")
_WITH_WEIGHTS = ("torchvision", "timm")
_STATE = "torchvision:ARCH --weights FILE, timm:NAME --weights FILE or xrv:FILE"
_FILES = {".onnx": "onnx:FILE", ".pt": _STATE, ".pth": _STATE, ".bin": _STATE, ".safetensors": _STATE}
_EXPECTED = "xrv:NAME, timm:NAME, hf:OWNER/NAME, a folder with config.json, onnx:FILE or torchvision:ARCH"


def adopt(config: AdoptConfig) -> Adopted:
    """Read the model that `config.source` names. ConfigError where there is none, or where it cannot be used."""
    scheme, colon, name = config.source.partition(":")
    if config.source.endswith(_CODE) or (config.weights or "").endswith(_CODE):
        raise ConfigError(
            f"{config.source}: TorchScript and torch.export files are code that runs when they are loaded; expected a "
            "state dict (.safetensors, or .pth with torchvision:ARCH --weights) or an ONNX file (onnx:FILE)"
        )
    if config.weights and scheme not in _WITH_WEIGHTS:
        raise ConfigError(
            f"--weights {config.weights}: belongs to torchvision:ARCH and timm:NAME; {config.source} has its own"
        )
    if colon and scheme in SOURCES:
        if not name:
            raise ConfigError(f"{config.source}: no name behind the colon; expected {_EXPECTED}")
        return SOURCES[scheme](name, config)
    if colon and scheme not in ("s3", "file"):
        raise ConfigError(f"{config.source}: no source of this kind; expected {_EXPECTED}")
    for suffix, how in _FILES.items():
        if config.source.endswith(suffix):
            raise ConfigError(f"{config.source}: a file without the kind of its model; expected {how}")
    return hub.adopt(config.source, config)
