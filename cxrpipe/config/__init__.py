"""Settings of every program: frozen, documented where they are defined, checked once."""

from cxrpipe.config.by_hand import DemoConfig, ExportConfig, ForgetConfig, PredictConfig, ShowConfig
from cxrpipe.config.evaluate import CalibrateConfig, CompareConfig, EvaluateConfig
from cxrpipe.config.index import IndexConfig
from cxrpipe.config.score import DECODE_TIMEOUT_S, NightlyConfig, Resources, ScoreConfig
from cxrpipe.config.train import TrainConfig

__all__ = [
    "DECODE_TIMEOUT_S",
    "CalibrateConfig",
    "CompareConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ForgetConfig",
    "IndexConfig",
    "NightlyConfig",
    "PredictConfig",
    "Resources",
    "ScoreConfig",
    "ShowConfig",
    "TrainConfig",
]
