"""Draws a synthetic chest radiograph, with the masks of its lungs.

Not drawn: laterals, AP films, tubes and devices, effusions, scapulae. Lengths are fractions of the film's
side, counted from its centre, x to the right and y down. The patient's left lies on the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike


class SyntheticRadiograph(NamedTuple):
    """A drawn radiograph and its masks."""

    pixels: np.ndarray  # (S, S) uint8, 0..255, bright = dense
    left: np.ndarray  # (S, S) bool, the patient's left lung, on the right of the image
    right: np.ndarray  # (S, S) bool


def radiograph(
    rng: np.random.Generator,
    *,
    side_px: int = 256,
    pneumonia: bool = False,
    cardiomegaly: bool = False,
    anatomy: np.random.Generator | None = None,
) -> SyntheticRadiograph:
    """Draw a frontal (PA) chest radiograph and the masks of its lungs.

    Generators in equal states draw equal films. `pneumonia` changes a film only inside the lungs.

    anatomy  draws the shapes of the patient; pass generators in equal states for films of one patient (None: use `rng`)
    """
    chest = _chest(rng if anatomy is None else anatomy, cardiomegaly)
    film = _Film.placed(rng, side_px)
    disease = np.random.default_rng(rng.integers(2**63))  # separate, so that later draws do not depend on it

    body = film.fill([chest.body], soft=0.02)
    heart, mediastinum = film.fill([chest.heart], soft=0.015), film.fill([chest.mediastinum], soft=0.02)
    abdomen = film.fill([chest.abdomen], soft=0.01)
    room = (1 - heart) * (1 - mediastinum) * (1 - abdomen)
    left_air, right_air = (film.fill([pleura], soft=0.008) * room for pleura in (chest.left, chest.right))
    left, right, air = left_air > 0.5, right_air > 0.5, left_air + right_air

    density = body * (0.4 + 0.22 * film.fill([chest.body], soft=0.25))  # thinner towards the skin
    density += body * 0.2 * (1 - (1 - 0.7 * heart) * (1 - 0.7 * mediastinum) * (1 - abdomen))
    density -= rng.uniform(0.28, 0.36) * air * film.clouds(rng, cells=32, spread=0.06)
    bone = rng.uniform(0.06, 0.1)
    density += bone * film.bones(chest.ribs + chest.clavicles, width=0.024) * (0.3 + 0.7 * room)
    density += 0.45 * bone * film.bones(chest.rib_fronts, width=0.026) * air
    density += rng.uniform(0.02, 0.05) * film.fill(chest.vertebrae, soft=0.008)
    density -= 0.09 * film.stroke([chest.trachea], width=0.04, soft=0.02)
    density -= 0.16 * chest.gas * film.fill([chest.stomach], soft=0.03) * abdomen
    density += 0.12 * chest.breast * film.fill(chest.breasts, soft=0.06) * body
    density += 0.12 * film.stroke(chest.hila, width=0.05, soft=0.04) * air
    density += 0.08 * film.stroke(chest.vessels, width=0.006, soft=0.008) * air
    if pneumonia:
        density += _opacities(disease, film, left, right) * air
    marker = np.array([(0, -0.05), (0, 0), (0.025, 0)])  # the letter L, in lead
    marker += rng.uniform((0.3, -0.43), (0.42, -0.34))
    density = np.maximum(density, film.stroke([marker], width=0.007, soft=0.004))
    density *= film.clouds(rng, cells=3, spread=0.06)  # uneven beam
    density += rng.uniform(0.006, 0.02) * rng.standard_normal(density.shape, dtype=np.float32)

    exposure = np.clip(rng.uniform(0.95, 1.15) * density + rng.uniform(-0.05, 0.08), 0, 1)
    pixels = np.rint(255 * cv2.pow(exposure, rng.uniform(0.7, 1.4))).astype(np.uint8)
    return SyntheticRadiograph(pixels, left, right)


class _Chest(NamedTuple):
    """The shapes of one patient, each (points, 2)."""

    body: np.ndarray
    left: np.ndarray  # the pleural space, part of which heart, mediastinum and abdomen cover
    right: np.ndarray
    heart: np.ndarray
    mediastinum: np.ndarray
    abdomen: np.ndarray  # its upper border is the diaphragm
    stomach: np.ndarray
    gas: float  # in the stomach, 0..1
    breasts: list[np.ndarray]
    breast: float  # density of the breasts, 0..1
    vertebrae: list[np.ndarray]
    ribs: list[np.ndarray]  # lines, like all fields below; from the spine to the side
    rib_fronts: list[np.ndarray]  # from the side to the sternum
    clavicles: list[np.ndarray]
    trachea: np.ndarray
    hila: list[np.ndarray]
    vessels: list[np.ndarray]


_MEDIASTINUM = (  # in the units of `at` in `_chest`: down the patient's right side, up the left one
    *((-0.13, -0.3), (-0.15, 0.12), (-0.21, 0.36), (-0.21, 0.6), (-0.18, 1.0), (-0.18, 1.4)),
    *((0.18, 1.4), (0.18, 1.0), (0.22, 0.6), (0.27, 0.45), (0.2, 0.33)),
    *((0.27, 0.24), (0.23, 0.16), (0.15, 0.1), (0.12, -0.3)),  # the aortic knob
)


def _chest(rng: np.random.Generator, cardiomegaly: bool) -> _Chest:
    half = rng.uniform(0.33, 0.39)  # half the inner width of the thorax
    top = rng.uniform(-0.38, -0.32)  # apices of the lungs
    dome = top + rng.uniform(0.5, 0.6)  # top of the right diaphragm
    lower = rng.uniform(0.015, 0.045)  # the left diaphragm lies this much lower
    ratio = rng.uniform(0.57, 0.66) if cardiomegaly else rng.uniform(0.42, 0.48)  # heart to thorax
    t = np.linspace(0, 1, 24)

    def at(x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Place points given in half widths of the thorax (x) and heights of the lung (y: apices 0, dome 1)."""
        return np.column_stack([x, y]) * (half, dome - top) + (0, top)

    def pleura(side: int) -> np.ndarray:
        lateral = 0.46 + 0.54 * _arc(t**2 / 0.6, power=2.2)
        medial = 0.46 - 0.30 * _arc(t**2 / 0.3, power=2.0)
        return at(side * np.append(lateral, medial[::-1]), 1.4 * np.append(t, t[::-1]) ** 2)

    def diaphragm(side: int) -> np.ndarray:
        u = np.linspace(-1, 1.3, 24)  # 0 at the top of the dome, 1 at the costophrenic angle
        y = dome + lower * (side > 0) + np.where(u > 0, 0.11, 0.05) * np.abs(u) ** 2.4
        return np.column_stack([side * half * (1 + u) / 2, y])

    def rib(side: int, number: int, start: float, end: float) -> np.ndarray:
        """Draw part of a rib. It circles the chest and sinks from the spine (0) to the side (0.5) and sternum (1)."""
        angle = np.linspace(start, end, 12) * np.pi
        reach = 1.02 * min(1, 0.6 + 0.17 * number)
        return at(side * reach * np.sin(angle), 0.115 * number + 0.13 - 0.19 * np.cos(angle))

    def vessels(side: int, count: int) -> np.ndarray:
        """Draw vessels that wander outwards from the hilum, (count, points, 2)."""
        bearing = rng.uniform(-1.3, 1.2, (count, 1)) + np.cumsum(rng.normal(0, 0.15, (count, 8)), axis=1)
        length = rng.uniform(0.015, 0.035, (count, 1))
        steps = np.stack([side * length * np.cos(bearing), length * np.sin(bearing)], axis=-1)
        starts = at(np.full(count, side * 0.25), rng.uniform(0.36, 0.56, count))
        return starts[:, None] + np.cumsum(steps, axis=1)

    skin = np.column_stack(  # from the neck over shoulder and axilla to the hip
        [
            (0.1, 0.11, 0.22, 0.45, 0.62, 0.68, 0.6, half + 0.1, half + 0.07, half + 0.09, half + 0.12),
            (-0.8, -0.5, -0.44, -0.38, -0.24, -0.05, 0.04, 0.02, 0.16, 0.4, 0.9),
        ]
    )
    corners = np.array([0, 0, 0.075, 0.075])
    clavicle = 0.17 - 0.22 * t + 0.03 * np.sin(2 * np.pi * t)
    heart = half * ratio  # half the width of the heart, a third of which lies on the right
    return _Chest(
        body=_smooth(np.concatenate([skin, skin[::-1] * (-1, 1)])),
        left=pleura(+1),
        right=pleura(-1),
        heart=_ellipse((heart / 3, dome + 0.04 - 0.82 * heart), (1.06 * heart, 0.81 * heart), turn=0.55),
        mediastinum=_smooth(at(*np.transpose(_MEDIASTINUM))),
        abdomen=np.concatenate([diaphragm(-1)[::-1], diaphragm(+1), [(1, 1.5), (-1, 1.5)]]),
        stomach=_ellipse((0.5 * half, dome + lower + 0.06), (0.11, 0.045), turn=0.1),
        gas=rng.uniform(0, 1) ** 2,
        breasts=[_ellipse((side * 0.56 * half, dome - 0.06), (0.42 * half, 0.13)) for side in (-1, 1)],
        breast=max(0.0, rng.uniform(-1, 1)),
        vertebrae=[at((-0.1, 0.1, 0.1, -0.1), y + corners) for y in np.arange(-0.4, 2.2, 0.1)],
        ribs=[rib(side, number, 0.06, 0.5) for side in (-1, 1) for number in range(9)],
        rib_fronts=[rib(side, number, 0.5, 0.8) for side in (-1, 1) for number in range(6)],
        clavicles=[at(side * (0.1 + 1.1 * t), clavicle) for side in (-1, 1)],
        trachea=at((0, 0, -0.02), (-0.5, 0, 0.33)),
        hila=[at((side * 0.24, side * 0.3, side * 0.28), (0.38, 0.46, 0.58)) for side in (-1, 1)],
        vessels=[*vessels(-1, 14), *vessels(+1, 14)],
    )


_FIXED_BITS = 4  # OpenCV takes fractions of a pixel as integers shifted by so many bits


@dataclass(frozen=True)
class _Film:
    """Draws shapes as layers (S, S) float32, 0..1, at the place where the patient stands before the film."""

    side_px: int
    pose: np.ndarray  # (2, 3) affine, from fractions to pixels

    @classmethod
    def placed(cls, rng: np.random.Generator, side_px: int) -> "_Film":
        turn, zoom = np.radians(rng.normal(0, 2)), rng.uniform(0.9, 1.08)
        cos, sin = side_px * zoom * np.cos(turn), side_px * zoom * np.sin(turn)
        x, y = side_px * (0.5 + rng.uniform(-0.04, 0.04, 2)) - 0.5
        return cls(side_px, np.array([[cos, -sin, x], [sin, cos, y]]))

    def fill(self, outlines: list[np.ndarray], soft: float) -> np.ndarray:
        layer = np.zeros((self.side_px, self.side_px), np.uint8)
        cv2.fillPoly(layer, self._fixed_point(outlines), 255, shift=_FIXED_BITS)
        return self._soften(layer, soft)

    def stroke(self, lines: list[np.ndarray], width: float, soft: float) -> np.ndarray:
        layer = np.zeros((self.side_px, self.side_px), np.uint8)
        self._line(layer, lines, width, 255)
        return self._soften(layer, soft)

    def bones(self, lines: list[np.ndarray], width: float) -> np.ndarray:
        """Draw strokes with a bright rim, the cortex."""
        layer = np.zeros((self.side_px, self.side_px), np.uint8)
        self._line(layer, lines, width, 255)
        self._line(layer, lines, width / 2, 150)
        return self._soften(layer, soft=0.006)

    def clouds(self, rng: np.random.Generator, cells: int, spread: float) -> np.ndarray:
        """Draw smooth noise around 1, (S, S) float32, with a standard deviation below `spread`."""
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        return 1 + spread * cv2.resize(noise, (self.side_px, self.side_px), interpolation=cv2.INTER_CUBIC)

    def fractions(self, pixel: np.ndarray) -> np.ndarray:
        """Convert a pixel's x, y back to fractions of the film."""
        return np.linalg.solve(self.pose[:, :2], pixel - self.pose[:, 2])

    def _line(self, layer: np.ndarray, lines: list[np.ndarray], width: float, brightness: int) -> None:
        thickness_px = max(1, round(width * self.side_px))
        cv2.polylines(layer, self._fixed_point(lines), False, brightness, thickness_px, shift=_FIXED_BITS)

    def _fixed_point(self, shapes: list[np.ndarray]) -> list[np.ndarray]:
        placed = (shape @ self.pose[:, :2].T + self.pose[:, 2] for shape in shapes)
        return [np.rint(points * 2**_FIXED_BITS).astype(np.int32) for points in placed]

    def _soften(self, layer: np.ndarray, soft: float) -> np.ndarray:
        """Blur by two boxes: close to a Gaussian, and a wide blur is as fast as a narrow one."""
        box = 2 * max(1, round(soft * self.side_px / 2)) + 1
        for _ in range(2):
            layer = cv2.blur(layer, (box, box), borderType=cv2.BORDER_REPLICATE)
        scaled: np.ndarray = np.multiply(layer, np.float32(1 / 255))
        return scaled


def _opacities(rng: np.random.Generator, film: _Film, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Draw one to three soft, irregular patches in one lung, (S, S) float32; 0 outside its mask."""
    lung = left if rng.random() < 0.5 else right
    depth = cv2.distanceTransform(lung.astype(np.uint8), cv2.DIST_L2, 3)
    rows, columns = np.nonzero(depth > depth.max() / 3)
    patches = np.zeros(lung.shape, np.float32)
    texture = film.clouds(rng, cells=20, spread=0.22)
    for _ in range(rng.integers(1, 4)):
        centre = rng.integers(len(rows))
        outline = _ellipse((0, 0), rng.uniform(0.05, 0.11, 2), points=9) * rng.uniform(0.6, 1.3, (9, 1))
        outline = _smooth(outline) + film.fractions(np.array([columns[centre], rows[centre]]))
        patch = film.fill([outline], soft=rng.uniform(0.03, 0.06))
        patches = np.maximum(patches, rng.uniform(0.18, 0.4) * patch)
    faded: np.ndarray = patches * texture * np.minimum(depth / (0.01 * film.side_px), 1)  # towards the pleura
    return faded


def _arc(t: np.ndarray, power: float) -> np.ndarray:
    """Draw a quarter of a superellipse: it rises steeply from 0 and is flat at 1 from t = 1 on."""
    rising: np.ndarray = (1 - (1 - np.minimum(t, 1)) ** power) ** (1 / power)
    return rising


def _ellipse(centre: ArrayLike, radii: Sequence[float] | np.ndarray, turn: float = 0, points: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.column_stack([x * cos - y * sin, x * sin + y * cos]) + centre


def _smooth(points: np.ndarray, steps: int = 8) -> np.ndarray:
    """Draw a closed Catmull-Rom spline through the points, (points * steps, 2)."""
    a, b, c, d = (np.roll(points, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve: np.ndarray = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    outline: np.ndarray = curve.reshape(-1, 2) / 2
    return outline
