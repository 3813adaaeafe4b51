"""Small real things for tests: images, archives, tables, and models with random weights."""

import gzip
import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from cxrpipe.archives import synthetic
from cxrpipe.archives.index import index
from cxrpipe.archives.study_table_writer import write_study_table
from cxrpipe.config import IndexConfig
from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs
from cxrpipe.models import architectures, weights
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ModelFolder, save_model
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable

# A network this small spends its time waiting for its threads: 15 studies take 0.17 s of one thread, 1.8 s of two.
torch.set_num_threads(1)

FINDINGS = ("Pneumonia", "Cardiomegaly")


def png(pixels: np.ndarray) -> bytes:
    """(H, W[, C]) uint8 or uint16, channels in OpenCV's order → PNG."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def radiograph(seed: int = 0, rows: int = 80, columns: int = 64) -> np.ndarray:
    """(rows, columns) uint8 with contrast."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def pixels(data: bytes) -> np.ndarray:
    """(H, W) uint8 of an encoded image, under the intensity `voi`."""
    return radiographs.decode(data, "voi").pixels


def reason(data: bytes) -> str:
    """Why the bytes are no picture; `picture` where they are one."""
    try:
        pixels(data)
    except StudyError as error:
        return error.reason
    return "picture"


def tar(entries: Mapping[str, bytes], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of regular files, without times or owners."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def tar_gz(entries: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tar(entries), 1, mtime=0)


def zipped(entries: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return packed.getvalue()


def nih_table(folder: Path, studies: int = 24, side_px: int = 64) -> StudyTable:
    """A synthetic archive in the NIH layout, indexed."""
    synthetic.write_nih(folder / "nih", studies=studies, side_px=side_px)
    return _indexed(folder, "nih")


def lung_table(folder: Path, studies: int = 24, side_px: int = 64) -> StudyTable:
    """A synthetic archive in the Montgomery layout, indexed."""
    synthetic.write_montgomery(folder / "montgomery", studies=studies, side_px=side_px)
    return _indexed(folder, "montgomery")


def own_table(folder: Path, studies: Mapping[str, Sequence[bytes | None]]) -> StudyTable:
    """A table of one's own, indexed: study id → the bytes of its views. None: a file that is gone when it is read.

    Made again in the same folder it is the same archive later: files that are the same have the same times.
    """
    archive = folder / "own"
    archive.mkdir(parents=True, exist_ok=True)
    gone, lines = [], ["study_id,path,patient_id"]
    for study_id, views in studies.items():
        for number, data in enumerate(views):
            path = archive / f"{study_id}_{number}.png"
            written = b"gone" if data is None else data
            path.write_bytes(written)
            os.utime(path, (0, zlib.crc32(written)))
            gone += [path] if data is None else []
            lines.append(f"{study_id},{path.name},patient_{study_id}")
    (archive / "table.csv").write_text("\n".join(lines))
    table = _indexed(folder, "own/table.csv")
    for path in gone:
        path.unlink()
    return table


def table_of(folder: Path, studies: Iterable[Study]) -> StudyTable:
    """A table of studies as they are given, without an archive: for what reads no pixels."""
    out = str(folder / "table" / "studies.parquet")
    with tempfile.TemporaryDirectory() as scratch:
        write_study_table(iter(studies), out, archive=str(folder), layout="table", split_seed=7, scratch=Path(scratch))
    return StudyTable(out)


def _indexed(folder: Path, name: str) -> StudyTable:
    config = IndexConfig(archive=str(folder / name), out=str(folder / f"{Path(name).parts[0]}_table/studies.parquet"))
    index(config.archive, config.out)
    return StudyTable(config.out)


def classifier(
    url: Path, *, seed: int = 0, side_px: int = 32, findings: Sequence[str] = FINDINGS, **card: object
) -> ModelFolder:
    """A ResNet-18 with random weights, saved as a model folder."""
    torch.manual_seed(seed)
    settings = {"task": "classify", "architecture": "resnet18", "mean": 0.5, "std": 0.25} | card
    made = Card(side_px=side_px, findings=tuple(findings), **settings)
    return save_model(str(url), made, weights.weights_bytes(architectures.build_from_card(made)), facts={})


def small_classifier(url: Path, **settings: object) -> ModelFolder:
    """As `classifier`, of 1.4 MB: for what needs a model, and not what it says."""
    return classifier(url, architecture="shufflenet_v2_x0_5", **settings)  # type: ignore[arg-type]


def segmenter(url: Path, *, seed: int = 0, side_px: int = 32, **card: object) -> ModelFolder:
    """A U-Net with random weights, saved as a model folder."""
    torch.manual_seed(seed)
    settings = {"task": "segment", "architecture": "unet-resnet18", "mean": 0.5, "std": 0.25, "views": "all"} | card
    made = Card(side_px=side_px, **settings)  # type: ignore[arg-type]
    return save_model(str(url), made, weights.weights_bytes(architectures.build_from_card(made)), facts={})


def awake(saved: ModelFolder) -> ModelFolder:
    """The model with statistics of BatchNorm as training leaves them; fresh ones let a signal die on its way."""
    network, card = weights.load(saved), saved.card
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    views = torch.rand(16, card.channels, card.side_px, card.side_px, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        network.train()(views)
    return save_model(saved.url, card, weights.weights_bytes(network), facts={})
