"""Compiles networks, and calls networks with the few sizes that they were made for."""

from typing import Any

import torch
from torch import Tensor, nn

from cxrpipe import console

VIEWS_OF_A_CALL = {"cpu": (8,), "cuda": (8, 64)}
"""Numbers of views in a call. Another number would be compiled anew (a minute), or tried anew by cuDNN's benchmark.

A card has two, so that a batch of which memory holds only a part goes on in small calls.
"""


def compiled(network: nn.Module, side_px: int, device: torch.device, channels: int = 1) -> nn.Module | None:
    """The network compiled, on a CPU with its weights frozen into the kernels.

    None where the machine cannot compile; a line is logged.
    """
    settings: dict[str, Any] = {"dynamic": False} if device.type == "cuda" else {"options": {"freezing": True}}
    faster = FixedCalls(torch.compile(network, **settings), VIEWS_OF_A_CALL[device.type])
    try:
        with torch.inference_mode():
            for views in VIEWS_OF_A_CALL[device.type]:
                faster(torch.zeros(views, channels, side_px, side_px, device=device))
    except (RuntimeError, OSError) as error:  # no C compiler, or one that inductor cannot use
        console.log(f"not compiled; the fused network is used instead ({str(error).strip().splitlines()[0]})")
        return None
    return faster


class FixedCalls(nn.Module):
    """A network that is called with a few numbers of views only. The last call is filled up with black.

    sizes  the numbers of views, ascending
    """

    def __init__(self, network: Any, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self._network, self._sizes = network, sizes

    def forward(self, views: Tensor) -> Any:
        """(N, C, S, S) → the network's answers on them."""
        answers = [self._call(part) for part in torch.split(views, self._sizes[-1])]
        if isinstance(answers[0], Tensor):
            return torch.cat(answers)
        return type(answers[0])(
            *(None if parts[0] is None else torch.cat(parts) for parts in zip(*answers, strict=True))
        )

    def _call(self, views: Tensor) -> Any:
        size = next(size for size in self._sizes if size >= len(views))
        filled = nn.functional.pad(views, (0, 0, 0, 0, 0, 0, 0, size - len(views)))
        answer = self._network(filled.contiguous(memory_format=torch.channels_last))
        if isinstance(answer, Tensor):
            return answer[: len(views)]
        return type(answer)(*(None if part is None else part[: len(views)] for part in answer))
