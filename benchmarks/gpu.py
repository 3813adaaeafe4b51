"""Proves a card: what it computes, how fast, and what it survives. python benchmarks/gpu.py [--parts parity,rates].

Networks have random weights and films are drawn, so nothing from outside is needed. Each part runs in a process of its
own, so a part that crashes or hangs costs only itself. A part whose packages are missing, and whatever there is no time
left for, is listed as not measured, with the reason. All parts but `actor` need torch, torchvision, numpy, OpenCV and
safetensors, and no other package. The result is Markdown for docs/performance.md, and JSON with --out.

On a CPU the same code runs with small networks and small numbers, within two minutes: a rehearsal, and no measurement.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from gpu_parts import report
from gpu_parts.catalogue import PARTS
from gpu_parts.processes import measure

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"cuda": 480.0, "cpu": 110.0}
_MACHINE_S = 60.0


def main() -> int:
    arguments = _arguments()
    if arguments.child:
        _child(arguments.child, arguments.device, arguments.sheet, arguments.ends_at)
        return 0
    with tempfile.TemporaryDirectory(prefix="cxrpipe-kernels-") as kernels:
        # A later part need not compile again what an earlier one has compiled, and nothing is left of an earlier call.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = kernels
        return _measure(arguments)


def _arguments() -> argparse.Namespace:
    lines = (f"  {name:9} {part.measures}" for name, part in PARTS.items())
    status = "Exit status: 0; 1 where a part crashed, a measurement failed or a row is beyond what is allowed;\n"
    status += "2 for a wrong request."
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["What is measured on a card:", *lines, "", status]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: cuda if torch sees it."
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="Parts, with commas between; all by default.")
    parser.add_argument("--seconds", type=float, help="Limit for all parts: 480 on a card, 110 on a CPU.")
    parser.add_argument("--out", type=Path, help="A file for all figures as JSON.")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the part that this process measures
    parser.add_argument("--sheet", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ends-at", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: no part is called {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    return arguments


def _measure(arguments: argparse.Namespace) -> int:
    """Measure the parts that are asked for, one after the other. Gives the exit status."""
    started = time.time()
    parts = [name for name in PARTS if name in arguments.parts.split(",")]
    machine = measure("machine", arguments.device, started + _MACHINE_S, __file__)
    device = machine.facts.get("device")
    if device is None or (arguments.device == "cuda" and device != "cuda"):
        reason = machine.reason or "torch sees no CUDA device"
        print(f"gpu.py: {reason}; check nvidia-smi, or use --device cpu", file=sys.stderr)
        return 2
    ends_at = started + (arguments.seconds or SECONDS[device])
    results = []
    for number, name in enumerate(parts):
        share = PARTS[name].seconds / sum(PARTS[later].seconds for later in parts[number:])
        limit_s = max(0.0, share * (ends_at - time.time()))
        print(f"gpu.py: {name}, {limit_s:.0f} s at most", file=sys.stderr, flush=True)
        results.append(measure(name, device, time.time() + limit_s, __file__))
    summary = report.Summary(
        command=" ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        date=time.strftime("%d %B %Y").lstrip("0"),
        seconds=time.time() - started,
        machine=machine.facts,
        parts=results,
    )
    print(report.markdown(summary))
    if arguments.out:
        arguments.out.write_text(json.dumps(report.as_json(summary), indent=2) + "\n")
    return 0 if summary.is_well else 1


def _child(part: str, device: str, sheet_file: Path, ends_at: float) -> None:
    """Measure one part in this process."""
    from gpu_parts import stand_ins

    with stand_ins.for_missing_packages():
        from gpu_parts.sheet import Sheet

        module = importlib.import_module(f"gpu_parts.{part}")
    with sheet_file.open("a") as file:
        module.run(Sheet(file, ends_at), device)


if __name__ == "__main__":
    sys.path.insert(1, str(ROOT))  # the package may not be installed on a lent card
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    sys.exit(main())
