"""Adopts a state dict of a torchvision classifier: torchvision:ARCH --weights FILE."""

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.adopted import Adopted


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """The model that `name`, the source without its scheme, stands for."""
    raise ConfigError(f"{config.source}: not built yet")
