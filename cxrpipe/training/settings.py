"""The settings of a training as its card holds them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cxrpipe.config import TrainConfig

_OF_MACHINES = ("use_gpu", "resources")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Give the settings as the card holds them (JSON has no tuples), without those that name machines.

    So a training goes on where it was when the cluster has changed.
    """
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return {name: value for name, value in settings.items() if name not in _OF_MACHINES}


def with_defaults(settings: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Complete the settings of a card, which may be older than a setting, with the defaults."""
    defaults = settings_of(TrainConfig(task=config.task, studies="", out=""))
    complete = {
        name: default | settings.get(name, {}) if isinstance(default, dict) else settings.get(name, default)
        for name, default in defaults.items()
    }
    return dict(settings) | complete
