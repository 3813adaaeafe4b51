"""How large everything is: on a card as in production, on a CPU as small as the code allows."""

from dataclasses import dataclass

from gpu_parts import models, ours
from gpu_parts.sheet import Sheet


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of networks and batches, and the length of a measurement."""

    classifier: str
    classifier_px: int
    wanted_segmenter: str
    segmenter_px: int
    learn_steps: int
    """Steps in which the U-Net learns the drawn lungs."""
    film_px: int
    films: int
    """Films that are compared with the CPU."""
    batches: tuple[int, ...]
    """Views in a batch, for rates; the last one is used where one is enough."""
    train_batch: int
    timed_s: float
    """Seconds of one timing."""
    compile_s: float
    """Seconds that compiling the ensemble takes, roughly, the first time."""
    precisions: tuple[str, ...]
    compiled: tuple[str, ...]
    """Precisions that are compiled, too, the most used first, since time may end before the last."""

    @property
    def segmenter(self) -> str:
        return models.segmenter_architecture(self.wanted_segmenter)

    @property
    def segmenter_note(self) -> str | None:
        """What to say where another U-Net than the shipped one is measured."""
        return None if ours.has_smp() else f"{self.wanted_segmenter} needs segmentation_models_pytorch"


CARD = Scale(
    classifier="resnet50",
    classifier_px=224,
    wanted_segmenter="unet-resnet34",
    segmenter_px=256,
    learn_steps=120,
    film_px=384,
    films=48,
    batches=(16, 64, 256),
    train_batch=64,
    timed_s=1.0,
    compile_s=50.0,
    precisions=("fp32", "tf32", "bf16", "fp16"),
    compiled=("bf16", "tf32", "fp32", "fp16"),
)
CPU = Scale(
    classifier="resnet18",
    classifier_px=64,
    wanted_segmenter="unet-resnet18",
    segmenter_px=32,
    learn_steps=20,
    film_px=128,
    films=8,
    batches=(4,),
    train_batch=4,
    timed_s=0.1,
    compile_s=20.0,
    precisions=("fp32", "bf16"),
    compiled=(),
)


def scale_for(device: str) -> Scale:
    return CARD if device == "cuda" else CPU


def note_what_a_cpu_lacks(sheet: Sheet, device: str) -> None:
    if device == "cpu":
        sheet.missing("tf32", "a CPU has no TF32")
        sheet.missing("compiled", "a CPU compiles for minutes")
