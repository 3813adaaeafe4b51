"""Resizes pixels as the libraries do from which models come: their answers differ by several grey levels.

| name       | down                                     | up            | as                                           |
|------------|------------------------------------------|---------------|----------------------------------------------|
| `area`     | means over areas                         | linear        | torchxrayvision with the engine `cv2`        |
| `skimage`  | a Gaussian, σ = (factor - 1) / 2, linear | linear        | torchxrayvision by default: skimage.transform|
| `bilinear` | a triangle of ± 1 pixel of the result    | linear        | Pillow: torchvision, timm, transformers      |
| `bicubic`  | a cubic of ± 2 pixels of the result      | cubic         | Pillow                                       |
| `lanczos`  | a windowed sinc of ± 3 pixels            | windowed sinc | Pillow                                       |
"""

from typing import Any

import cv2
import numpy as np

_AROUND = 127.5
"""torchxrayvision scales 0..255 to -1024..1024 before it resizes. Its 0, outside the image, lies in the middle."""
_TRUNCATE = 4.0
"""Standard deviations at which scipy.ndimage ends a Gaussian."""


def resized(pixels: np.ndarray, rows: int, columns: int, resizer: str) -> np.ndarray:
    """(H, W) uint8 → (rows, columns) uint8 by a named resizer."""
    if resizer == "area":
        shrinks = rows < pixels.shape[0] or columns < pixels.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=interpolation))
    if resizer == "skimage":
        return _by_skimage(pixels, rows, columns)
    from PIL import Image  # 30 ms, which most processes do not need

    filters = Image.Resampling
    by_name = {"bilinear": filters.BILINEAR, "bicubic": filters.BICUBIC, "lanczos": filters.LANCZOS}
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), by_name[resizer]))


def _by_skimage(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """As `skimage.transform.resize(…, mode="constant", preserve_range=True)` of torchxrayvision, and faster.

    The Gaussian and the linear sampling are one weighted mean for each row and column of the result: blurred pixels
    that no row or column takes are never computed. Outside the image lies grey, also for an image that grows.
    """
    values = pixels.astype(np.float32) - _AROUND
    down, across = _weights(pixels.shape[0], rows), _weights(pixels.shape[1], columns)
    means = (across @ (down @ values).T).T + _AROUND
    limits = [pixels.min(), pixels.max()]
    if means.min() <= _AROUND <= means.max():
        limits.append(_AROUND)
    return np.asarray(np.rint(np.clip(means, min(limits), max(limits))), np.uint8)


def _weights(pixels: int, parts: int) -> Any:
    """(parts, pixels) sparse: the share of every pixel of an axis in every pixel made of it."""
    from scipy import sparse

    factor = pixels / parts
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(_TRUNCATE * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (sigma or 1.0)) ** 2)
    taps /= taps.sum()
    places = (np.arange(parts) + 0.5) * factor - 0.5
    before = np.floor(places).astype(int)
    after_share = (places - before)[:, None]
    shares = np.pad(taps * (1 - after_share), ((0, 0), (0, 1))) + np.pad(taps * after_share, ((0, 0), (1, 0)))
    sources = before[:, None] + np.arange(-radius, radius + 2)
    kept = (sources >= 0) & (sources < pixels)
    numbers = np.broadcast_to(np.arange(parts)[:, None], kept.shape)
    where = numbers[kept], sources[kept]
    return sparse.csr_array((shares[kept].astype(np.float32), where), shape=(parts, pixels))
