"""Print the sizing table of docs/scale.md: python docs/scale.py

Everything follows from costs per study. A measured cost names its benchmark (docs/performance.md). The other costs are
assumed: replace them with those of your site.
"""

from typing import NamedTuple

# Measured, on vCPUs of a 2.5 GHz Xeon without bf16 units.
PREPARE_S = 0.026  # vCPU: fetch from disk, decode a 1024 x 1024 PNG, resize; benchmarks/score.py, `prepare` of the loop
PREDICT_CPU_S = 0.49  # vCPU: two ResNet-50 at 224 px and a U-Net at 256 px, float32; benchmarks/score.py, `predict`
ROW_S = 0.003  # vCPU: everything else; benchmarks/memory.py --stub, 680 studies a second on two
INDEX_S = 0.00013  # vCPU: list and catalogue on S3; benchmarks/index.py
DRIVER_MB, DRIVER_MB_PER_MILLION = 1_050, 260  # 1,055 at first, 1,307 at its peak; benchmarks/memory.py, a million
ROW_KB = 1.0  # a score row of two findings with its lung mask; 220 NIH studies

# Assumed.
IMAGE_MB = 0.4  # a 1024 x 1024 8-bit PNG of NIH ChestX-ray14; a DICOM of full size has 8 to 20
GPU_PER_S = 500.0  # studies a second of one small GPU (A10G) with these three networks in bf16: not measured by us
NIGHT_H = 8.0
BUSY = 0.7  # fraction of the night; the rest is start-up, lost spot machines, and waiting for the store
VCPUS = 16  # of one CPU machine
CPU_USD, GPU_USD = 0.71, 1.01  # an hour, on demand: c7i.4xlarge, g5.xlarge; spot is a third to a half
GET_USD = 0.4e-6  # a request to S3


class Night(NamedTuple):
    """What it takes to score this number of studies, with prediction on GPUs."""

    studies: int

    @property
    def cpu_hours(self) -> float:
        """Hours of one vCPU."""
        return self.studies * (INDEX_S + PREPARE_S + ROW_S) / 3600 / BUSY

    @property
    def gpu_hours(self) -> float:
        return self.studies / GPU_PER_S / 3600 / BUSY

    @property
    def usd(self) -> float:
        return self.cpu_hours / VCPUS * CPU_USD + self.gpu_hours * GPU_USD + self.studies * GET_USD

    @property
    def parts(self) -> int:
        """Part files: 256 studies in each up to a million studies, 5,000 above."""
        return -(-self.studies // (256 if self.studies <= 1_000_000 else 5_000))

    def row(self) -> str:
        hours_without_gpu = self.studies * (PREPARE_S + ROW_S + PREDICT_CPU_S) / 3600 / BUSY
        return " | ".join(
            (
                f"| {self.studies:,}",
                _bytes(self.studies * IMAGE_MB * 1e6),
                _time(self.cpu_hours),
                _time(self.gpu_hours),
                f"{_machines(self.cpu_hours / VCPUS)} + {_machines(self.gpu_hours)}",
                f"{_machines(hours_without_gpu / VCPUS)}",
                f"${self.usd:,.2f}" if self.usd < 10 else f"${self.usd:,.0f}",
                f"{(DRIVER_MB + DRIVER_MB_PER_MILLION * self.studies / 1e6) / 1e3:,.1f} GB",
                f"{self.parts:,}",
                _bytes(self.studies * ROW_KB * 1e3) + " |",
            )
        )


def _bytes(count: float) -> str:
    unit, size = next(pair for pair in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if count >= pair[1])
    return f"{count / size:,.0f} {unit}"


def _time(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def _machines(hours: float) -> int:
    """The number of machines for which one night is long enough."""
    return max(1, -(-int(hours * 100) // int(NIGHT_H * 100)))


HEADER = (
    "| studies | read | vCPU | GPU | machines, 16 vCPUs + GPU | machines, CPU alone | cost | driver | parts | rows |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)

if __name__ == "__main__":
    print(HEADER, *(Night(10**power).row() for power in range(3, 9)), sep="\n")
