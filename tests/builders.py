"""Small real things for tests: images, archives, tables, and models with random weights."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from cxrpipe import models, synthetic
from cxrpipe.cards import Card, ModelFolder, save_model
from cxrpipe.config import IndexConfig
from cxrpipe.index import index
from cxrpipe.study_table import StudyTable

FINDINGS = ("Pneumonia", "Cardiomegaly")


def png(pixels: np.ndarray) -> bytes:
    """(H, W[, C]) uint8 or uint16, channels in OpenCV's order → PNG."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def radiograph(seed: int = 0, rows: int = 80, columns: int = 64) -> np.ndarray:
    """(rows, columns) uint8 with contrast."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def nih_table(folder: Path, studies: int = 24, side_px: int = 64) -> StudyTable:
    """A synthetic archive in the NIH layout, indexed."""
    synthetic.write_nih(folder / "nih", studies=studies, side_px=side_px)
    return _indexed(folder, "nih")


def lung_table(folder: Path, studies: int = 24, side_px: int = 64) -> StudyTable:
    """A synthetic archive in the Montgomery layout, indexed."""
    synthetic.write_montgomery(folder / "montgomery", studies=studies, side_px=side_px)
    return _indexed(folder, "montgomery")


def _indexed(folder: Path, name: str) -> StudyTable:
    config = IndexConfig(archive=str(folder / name), out=str(folder / f"{name}_table" / "studies.parquet"))
    index(config.archive, config.out)
    return StudyTable(config.out)


def classifier(
    url: Path, *, seed: int = 0, side_px: int = 32, findings: Sequence[str] = FINDINGS, **card: object
) -> ModelFolder:
    """A ResNet-18 with random weights, saved as a model folder."""
    torch.manual_seed(seed)
    settings = {"task": "classify", "architecture": "resnet18", "mean": 0.5, "std": 0.25} | card
    made = Card(side_px=side_px, findings=tuple(findings), **settings)
    return save_model(str(url), made, models.weights_bytes(models.build_from_card(made)), facts={})


def segmenter(url: Path, *, seed: int = 0, side_px: int = 32) -> ModelFolder:
    """A U-Net with random weights, saved as a model folder."""
    torch.manual_seed(seed)
    made = Card(task="segment", architecture="unet-resnet18", side_px=side_px, mean=0.5, std=0.25, views="all")
    return save_model(str(url), made, models.weights_bytes(models.build_from_card(made)), facts={})
