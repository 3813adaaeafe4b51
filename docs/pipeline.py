"""Draw docs/pipeline.svg: python docs/pipeline.py"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

INK, PALE, CPU, GPU, STORE = "#1f2933", "#52606d", "#dbeafe", "#dcfce7", "#f1f5f9"
BOXES = {
    # name: (x, y, width, height, colour, title, lines)
    "archive": (
        0.1,
        3.4,
        2.0,
        1.5,
        STORE,
        "Archive",
        ["tar, tar.gz, zip, npz,", "PNG, JPEG, DICOM,", "as it was published"],
    ),
    "index": (0.1, 1.2, 2.0, 1.2, CPU, "index", ["opens what changed", "one row per study"]),
    "table": (2.7, 1.2, 2.0, 1.2, STORE, "Study table", ["where its images lie,", "labels, split"]),
    "list": (
        2.7,
        3.4,
        2.0,
        1.5,
        CPU,
        "Frozen list",
        ["studies of this run,", "minus those in parts", "that have landed"],
    ),
    "prepare": (
        5.3,
        3.4,
        2.1,
        1.5,
        CPU,
        "Prepare",
        ["fetch, decode in child", "processes, letterbox;", "uint8 on the wire"],
    ),
    "predict": (8.0, 3.4, 2.1, 1.5, GPU, "Predict", ["ensemble, segmenter,", "heat maps; arrays in,", "arrays out"]),
    "land": (
        10.7,
        3.4,
        2.1,
        1.5,
        CPU,
        "Finish, land",
        ["votes, PNG, rows;", "one Parquet part; a", "receipt to the driver"],
    ),
    "publish": (10.7, 1.2, 2.1, 1.2, STORE, "Publish", ["reconciled: every", "study once; run.json"]),
    "evaluate": (8.0, 1.2, 2.1, 1.2, CPU, "evaluate", ["figures, intervals,", "report"]),
    "train": (5.3, 1.2, 2.1, 1.2, GPU, "train", ["Ray Train;", "weights and card"]),
}
ARROWS = [
    ("archive", "index"),
    ("index", "table"),
    ("table", "list"),
    ("list", "prepare"),
    ("prepare", "predict"),
    ("predict", "land"),
    ("land", "publish"),
    ("publish", "evaluate"),
    ("table", "train"),
    ("train", "predict"),
]


def draw(out: Path) -> None:
    """Write the picture. Equal pictures are equal bytes."""
    matplotlib.rcParams.update({"svg.hashsalt": "cxrpipe", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(13, 5.4))
    axes.set(xlim=(0, 12.9), ylim=(0.4, 5.7))
    axes.axis("off")
    axes.add_patch(
        FancyBboxPatch((2.55, 3.2), 10.4 - 0.1, 1.95, boxstyle="round,pad=0.02", fill=False, ec=PALE, ls="--")
    )
    axes.text(2.6, 5.3, "score: streamed by Ray Data, or by a plain loop with the same functions", color=PALE, size=11)
    for x, y, width, height, colour, title, lines in BOXES.values():
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", fc=colour, ec=INK, lw=1))
        axes.text(x + width / 2, y + height - 0.25, title, ha="center", va="center", size=11, weight="bold", color=INK)
        axes.text(x + width / 2, y + (height - 0.4) / 2, "\n".join(lines), ha="center", va="center", size=9, color=INK)
    for start, end in ARROWS:
        axes.annotate(
            "", _side(end, start), _side(start, end), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2}
        )
    for x, colour, what in ((0.1, CPU, "on CPUs"), (1.5, GPU, "on GPUs, or CPUs"), (3.7, STORE, "on disk or S3")):
        axes.add_patch(FancyBboxPatch((x, 0.55), 0.25, 0.2, boxstyle="round,pad=0.02", fc=colour, ec=INK, lw=0.8))
        axes.text(x + 0.4, 0.65, what, va="center", size=9, color=INK)
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None, "Title": "How cxrpipe works"})


def _side(of: str, towards: str) -> tuple[float, float]:
    """The middle of the side of one box that faces another box."""
    x, y, width, height, *_ = BOXES[of]
    other_x, other_y, *_ = BOXES[towards]
    if abs(other_y - y) > 1:
        lower = other_y < y
        shift = 0.25 * width if of == "train" or towards == "train" else 0.0
        return x + width / 2 + (shift if other_x > x else -shift if other_x < x else 0), y if lower else y + height
    return (x + width if other_x > x else x), y + height / 2


if __name__ == "__main__":
    draw(Path(__file__).with_name("pipeline.svg"))
