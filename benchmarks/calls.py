"""What a second call in hand of an actor saves: python benchmarks/calls.py [--blocks 60 --studies 128 --wait-ms 50].

An actor sleeps for each block, as a predictor waits for its GPU, and gives a mask for each study. Printed for one call
in hand and for two: the median time from the end of a call to the start of the next, and blocks per second.
"""

import argparse
import os
import time
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import ray.data

from cxrpipe.on_ray import session
from cxrpipe.on_ray.sizing import Pool

SQUARES_PX, MASK_BYTES = (224, 256), 256 * 256 // 8


class Prepare:
    def __init__(self, studies: int) -> None:
        squares = {str(px): pa.array([bytes(px * px)] * studies, pa.large_binary()) for px in SQUARES_PX}
        self._block = pa.table(squares)

    def __call__(self, block: Any) -> pa.Table:
        return self._block


class Predict:
    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def __call__(self, block: pa.Table) -> pa.Table:
        begun = time.time()
        time.sleep(self._wait_s)
        studies = block.num_rows
        masks = pa.array([bytes(MASK_BYTES)] * studies, pa.large_binary())
        return pa.table({"begun": [begun] * studies, "ended": [time.time()] * studies, "masks": masks})


def measure(calls: int, blocks: int, studies: int, wait_s: float) -> str:
    feeding, predicting = Pool(1, 0.5, 0.0, 1), Pool(1, 0.5, 0.0, 1, calls=calls)
    data = ray.data.range(blocks, override_num_blocks=blocks).map_batches(
        Prepare, fn_constructor_args=[studies], batch_size=1, batch_format="pyarrow", **feeding.options()
    )
    data = data.map_batches(
        Predict, fn_constructor_args=[wait_s], batch_size=studies, batch_format="pyarrow", **predicting.options()
    )
    times = [(block["begun"][0], block["ended"][0]) for block in data.iter_batches(batch_size=studies)]
    begun, ended = np.sort(np.array(times), axis=0).T
    gap_ms = 1000 * np.median(begun[1:] - ended[:-1])
    return f"{calls} in hand: {gap_ms:5.1f} ms between calls, {len(times) / (ended[-1] - begun[0]):.2f} blocks/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--studies", type=int, default=128)
    parser.add_argument("--wait-ms", type=float, default=50)
    args = parser.parse_args()
    with session.session():
        for calls in (1, 2, 1, 2):
            print(measure(calls, args.blocks, args.studies, args.wait_ms / 1000))


if __name__ == "__main__":
    main()
