"""What networks cost on this machine, without films: python benchmarks/networks.py [--compile].

CPU ms per view of a ResNet-50 at 224 px and a U-Net (resnet34) at 256 px with fresh weights: batch normalisation
folded, convolutions in single calls as `score` runs them, and compiled where asked (minutes). The ways alternate, and
the least of several rounds counts, so that other work beside it disturbs less.
"""

import argparse
import time
from collections.abc import Callable

import torch

from cxrpipe.models import compiling, execution, fusing
from cxrpipe.models.architectures import build
from cxrpipe.models.execution import Execution

NETWORKS = {"resnet50": 224, "unet-resnet34": 256}
ROUNDS = 4

Network = Callable[[torch.Tensor], object]


def ways(architecture: str, plan: Execution, compile: bool) -> dict[str, Network]:
    side_px = NETWORKS[architecture]
    torch.manual_seed(0)
    network = execution.move(fusing.fused(build(architecture, 1, side_px).eval()), plan)
    made: dict[str, Network] = {"folded": network, "single calls": fusing.in_single_calls(network, side_px)}
    if compile and (faster := compiling.compiled(network, side_px, plan.device)):
        made["compiled"] = faster
    return made


@torch.inference_mode()
def cpu_ms_per_view(networks: dict[str, Network], side_px: int, views: int) -> dict[str, float]:
    films = torch.rand(views, 1, side_px, side_px).contiguous(memory_format=torch.channels_last)
    least = dict.fromkeys(networks, float("inf"))
    for counted in [False, *[True] * ROUNDS]:
        for name, network in networks.items():
            start = time.process_time()
            network(films)
            if counted:
                least[name] = min(least[name], (time.process_time() - start) / views * 1000)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--views", type=int, default=8, help="Views in a call.")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    execution.keep_memory()
    plan = execution.plan("cpu", args.precision)
    print(f"{plan.arithmetic}, {args.threads} threads, {args.views} views in a call; CPU ms per view")
    for architecture, side_px in NETWORKS.items():
        costs = cpu_ms_per_view(ways(architecture, plan, args.compile), side_px, args.views)
        print(f"{architecture:15}" + "".join(f"  {name} {ms:.1f}" for name, ms in costs.items()), flush=True)


if __name__ == "__main__":
    main()
