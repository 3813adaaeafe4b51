"""The section `augment` of the settings of `train`: `--augment.noise 0.02`, and `[augment]` in a TOML file."""

from dataclasses import dataclass
from typing import Literal

from cxrpipe.config.checks import at_least, between, known_words


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of training images, drawn anew for every image. A bound holds in both directions; masks follow."""

    rotation_deg: float = 0.0
    """Largest rotation."""

    shift_fraction: float = 0.0
    """Largest shift along either axis, as a fraction of the side."""

    shear_deg: float = 0.0
    """Largest shear along either axis."""

    zoom_fraction: float = 0.0
    """Largest change of scale. 0.1: factors between 1/1.1 and 1.1."""

    border: Literal["repeat", "black"] = "repeat"
    """Pixels from beyond the border of a moved image: repeat those of the border, or black."""

    crop: float = 1.0
    """Smallest fraction of the image that a random crop keeps; the crop, whose sides have a ratio of 3/4 to 4/3, is
    enlarged to the whole. 1: no crop. With --fit center-crop it is taken from what the middle is cut out of."""

    jitter: float = 0.0
    """Colour jitter: largest change of brightness, and of contrast, as factors. 0.2: factors between 0.8 and 1.2. (Hue
    and saturation of a grey image are nothing to change.)"""

    gamma: float = 0.0
    """Largest change of exposure. 0.5: gammas between 1/1.5 and 1.5."""

    brightness: float = 0.0
    """Largest value added to all pixels, as a fraction of the range."""

    contrast: float = 0.0
    """Largest change of contrast about the mean of the image. 0.2: factors between 1/1.2 and 1.2."""

    blur_fraction: float = 0.0
    """Largest standard deviation of a Gaussian blur, as a fraction of the side."""

    resolution_fraction: float = 0.0
    """Largest loss of resolution, in half of the images. 0.75: down to a quarter of the side, and up again."""

    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, as a fraction of the range."""

    erase_fraction: float = 0.0
    """Longest side of a rectangle of one grey that covers a part of half of the images, as a fraction of the side.
    Masks stay."""

    mixup: float = 0.0
    """Alpha of the beta distribution that mixes every image, and its targets, with another one of the batch. 0.2: most
    images stay nearly alone. For classifiers. 0: images are not mixed."""

    flip: bool = False
    """Mirror half of the images. Leave it off where sides matter: the heart lies left, and situs inversus is a
    finding."""

    def __post_init__(self) -> None:
        known_words(self, "augment.")
        for name in ("gamma", "mixup"):
            at_least(f"augment.{name}", getattr(self, name), 0)
        between("augment.rotation_deg", self.rotation_deg, 0.0, 180.0)
        between("augment.shear_deg", self.shear_deg, 0.0, 45.0)
        fractions = ("shift_fraction", "zoom_fraction", "jitter", "brightness", "contrast", "noise", "erase_fraction")
        for name in fractions:
            between(f"augment.{name}", getattr(self, name), 0.0, 1.0)
        between("augment.crop", self.crop, 0.01, 1.0)
        between("augment.blur_fraction", self.blur_fraction, 0.0, 0.1)
        between("augment.resolution_fraction", self.resolution_fraction, 0.0, 0.95)

    @property
    def moves(self) -> bool:
        """Whether pixels move: then masks must move with them."""
        turned = self.rotation_deg or self.shift_fraction or self.shear_deg or self.zoom_fraction or self.flip
        return bool(turned) or self.crop < 1
