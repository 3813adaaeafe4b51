"""The parts by name, in the order in which they run. Nothing heavy is imported here: `--help` is at once."""

from typing import NamedTuple


class Part(NamedTuple):
    """What one part measures."""

    measures: str
    """For `--help`."""
    seconds: float
    """Share of the time limit on a card. Time that earlier parts leave goes to the later ones."""
    needs: tuple[str, ...] = ()
    """Packages without which the part is not measured."""


FAILED = "failed:"
"""Begins the reason of what was not measured because of an exception."""

_OF_A_JOB = ("ray", "pyarrow", "pandas", "pydicom", "boto3", "indexed_gzip", "rich", "psutil")


PARTS = {
    "parity": Part(
        "probabilities, masks, consensus, heat maps, embedding and crop against the CPU: fp32, tf32, bf16, fp16,\n"
        "            fused and compiled, with two ResNet-50 (one crops to the lungs) and a U-Net",
        150,
    ),
    "rates": Part(
        "the card's matmul and copy rates; films/s of ResNet-50, the U-Net and the ensemble beside these rates,\n"
        "            by precision and batch, fused and compiled",
        90,
    ),
    "memory": Part("an out-of-memory that the predictor survives by halving its batch, and one of a training step", 25),
    "ddp": Part("two DDP workers on one card over gloo: gradients equal to those of one worker, images/s", 40),
    "training": Part(
        "images/s of a training step, ResNet-50 and U-Net: channels last or not, fp32, tf32 and bf16, compiled or not",
        115,
    ),
    "actor": Part("films/s of the predictor actor through Ray, from studies that need no decoding", 60, _OF_A_JOB),
}
