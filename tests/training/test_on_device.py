"""What a step does on a GPU, shown without one: torch's fake tensors know their device and hold no values.

An operation on tensors of two devices is an error there, and a copy from one device to another is an operation.
"""

from typing import Any

import pytest
import torch
from test_training import CARD, LOSS, SEGMENTER, VALID, batches_of, small_network
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cxrpipe.config.augment import AugmentConfig
from cxrpipe.training.augment import augment
from cxrpipe.training.fit import validate
from cxrpipe.training.losses import Loss, dice_bce, finding_loss, mask_loss
from cxrpipe.training.self_training import Teacher

ALL = AugmentConfig(
    rotation_deg=10,
    shift_fraction=0.1,
    shear_deg=3,
    zoom_fraction=0.1,
    brightness=0.1,
    contrast=0.2,
    noise=0.02,
    flip=True,
    crop=0.3,
    jitter=0.2,
)
_WAITS = ("aten.lift_fresh", "aten._local_scalar_dense")
"""A tensor made of Python numbers, and a number read from a tensor."""


class Waits(TorchDispatchMode):
    """Lists the operations for which a CPU and a GPU wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func).startswith(_WAITS) or (str(func).startswith("aten._to_copy") and "device" in kwargs):
            self.seen.append(str(func))
        return func(*args, **kwargs)


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize("with_masks", [False, True])
def test_images_are_varied_where_they_are(with_masks):
    with FakeTensorMode(), Waits() as waits:
        masks = on_gpu(4, 1, 32, 32) if with_masks else None
        pixels, moved = augment(on_gpu(4, 1, 32, 32, dtype=torch.uint8), masks, ALL)
        assert pixels.device.type == "cuda"
        assert (moved is not None) == with_masks
    assert waits.seen == []


LOSSES = {
    "bce": (lambda ones: finding_loss("bce", ones, 0.1, 2.0), (4, 3), (4, 3)),
    "focal": (lambda ones: finding_loss("focal", ones, 0.1, 2.0), (4, 3), (4, 3)),
    "cross-entropy": (lambda ones: finding_loss("cross-entropy", ones, 0.1, 2.0), (4, 3), (4, 3)),
    "multi-class": (lambda ones: finding_loss("bce", ones, 0.1, 2.0, (1,)), (4, 4), (4, 3)),
    "dice-bce": (lambda ones: mask_loss("dice-bce", 0.1, 2.0, ones.device), (4, 1, 32, 32), (4, 1, 32, 32)),
    "mask focal": (lambda ones: mask_loss("focal", 0.1, 2.0, ones.device), (4, 1, 32, 32), (4, 1, 32, 32)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_nothing_from_the_cpu_at_a_step(name):
    build, of_logits, of_targets = LOSSES[name]
    with FakeTensorMode():
        loss: Loss = build(on_gpu(3))
        with Waits() as waits:
            logits, targets = on_gpu(*of_logits), on_gpu(*of_targets)
            assert loss.cost(logits, targets).device == loss.cells(targets).device == logits.device
    assert waits.seen == []


class FirstPixels(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return views[:, 0, 0, :2]


def test_a_teacher_takes_nothing_from_the_cpu_at_a_step():
    with FakeTensorMode():
        teacher = Teacher(FirstPixels(), CARD, CARD.findings, (1,)).to("cuda")
        with Waits() as waits:
            taught = teacher.teach(on_gpu(4, 1, 16, 16, dtype=torch.uint8), on_gpu(4, 2))
            assert taught.device.type == "cuda"
    assert waits.seen == []


def test_validation_reads_no_number_before_its_last_batch():
    classifier, segmenter = small_network(), nn.Conv2d(1, 1, 1)
    masks = [(pixels, (pixels > 100).float()) for pixels, _ in batches_of(VALID)]
    with Waits() as waits:
        validate(classifier, CARD, LOSS, batches_of(VALID))
        validate(segmenter, SEGMENTER, dice_bce, masks)
    assert waits.seen == []
