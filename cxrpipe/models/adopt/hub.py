"""Adopts models of Hugging Face: a hub name, or a folder with config.json and model.safetensors."""

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.adopted import Adopted


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """The model that `name`, the source without its scheme, stands for."""
    raise ConfigError(f"{config.source}: not built yet")
