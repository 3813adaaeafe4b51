"""Settings of every program: frozen dataclasses, documented where they are defined, checked once."""

from cxrpipe.config.adopt import AdoptConfig
from cxrpipe.config.calibrate import CalibrateConfig
from cxrpipe.config.compare import CompareConfig
from cxrpipe.config.demo import DemoConfig
from cxrpipe.config.evaluate import EvaluateConfig
from cxrpipe.config.export import ExportConfig
from cxrpipe.config.forget import ForgetConfig
from cxrpipe.config.index import IndexConfig
from cxrpipe.config.nightly import NightlyConfig
from cxrpipe.config.predict import PredictConfig
from cxrpipe.config.probe import ProbeConfig
from cxrpipe.config.review import ReviewConfig
from cxrpipe.config.score import DECODE_TIMEOUT_S, Resources, ScoreConfig
from cxrpipe.config.show import ShowConfig
from cxrpipe.config.similar import SimilarConfig
from cxrpipe.config.train import TrainConfig

__all__ = [
    "DECODE_TIMEOUT_S",
    "AdoptConfig",
    "CalibrateConfig",
    "CompareConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ForgetConfig",
    "IndexConfig",
    "NightlyConfig",
    "PredictConfig",
    "ProbeConfig",
    "Resources",
    "ReviewConfig",
    "ScoreConfig",
    "ShowConfig",
    "SimilarConfig",
    "TrainConfig",
]
