"""Settings of `score`, and what `nightly` shares with it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cxrpipe.config import checks
from cxrpipe.config.outline import EVERYBODY, Outline
from cxrpipe.config.values import Name, Precision, SplitOrAll, Url
from cxrpipe.errors import ConfigError

DECODE_TIMEOUT_S = 60
"""A large film takes 0.3 s: a decoder that takes 60 s hangs."""

TRIAL_FROM_VIEWS = 10_000
"""A run of fewer views repays no trial of compiled networks, so nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where the stages run, and on how many CPUs and GPUs. 0 means: sized to the machine or the cluster."""

    preparers: int = 0
    """Ray actors that fetch, decode and fit images. Each decodes up to two images at a time."""

    predictors: int = 0
    """Ray actors that hold the models. 0: one per GPU where there are GPUs, else one per machine that is running, and
    two for a long run on this machine alone. State the number where CPU machines will come. More predictors than GPUs
    share them."""

    threads: int = 0
    """CPU threads of one predictor. 0: two beside a GPU, else its share of the cores of its machine."""

    placement: Literal["auto", "labels", "any"] = "auto"
    """Machines of the stages. labels: prepare on machines labelled role=preprocess, predict on those labelled
    role=predict. any: every machine. auto: by labels where running machines carry them. GPU machines labelled
    role=predict prepare, too, where that makes more decoders."""

    cpus: int = 0
    """Upper limit of logical CPUs for preparation with an autoscaler. 0: the CPUs present now."""

    gpus: int = 0
    """Upper limit of GPUs with an autoscaler. 0: the GPUs present now."""

    wait_s: float = 0
    """Seconds that the run may stand still, waiting for machines or for a store, before it ends with status 1. 0: 3600
    where machines may come (--resources.cpus or --resources.gpus above what is there), else 600."""

    def __post_init__(self) -> None:
        checks.known_words(self, "resources.")
        for name in ("preparers", "predictors", "threads", "cpus", "gpus", "wait_s"):
            checks.at_least(f"resources.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The settings that `score` and `nightly` share."""

    outline: ClassVar[Outline] = {
        "reading the archive": "layout split_seed decode_timeout_s",
        "models": "explain tta embed embed_under_pseudonyms precision compile batch_studies",
        "output": "part_studies max_failed_fraction wait_for_lock_s",
    }

    out: Url
    """Score root to write to. Many runs share one score root."""

    layout: Name = "auto"
    """Layout of the archive: auto (recognise it and say why), nih, chexpert, padchest, mimic-cxr-jpg, medmnist,
    shenzhen, montgomery, dicom, folders, images or table."""

    split_seed: int = 0
    """Seed of the 80/10/10 split by patient. An archive that comes with a split keeps it."""

    models: tuple[Url, ...] = ()
    """Model folders of the classifiers, the members of the ensemble. A folder of model folders stands for all of them,
    in the order of their names. Members may know different findings: each finding is decided by those that know it."""

    segmenter: tuple[Url, ...] = ()
    """Model folder of the lung segmenter. Several, or a folder of model folders, vote: masks are cut from the mean of
    their probabilities."""

    explain: bool = False
    """Draw a heat map (Grad-CAM) of every finding to which the consensus says yes."""

    tta: bool = False
    """Average each model over slightly enlarged and shifted variants of a view. The models do four times the work."""

    embed: bool = False
    """Keep the feature vector of every view, for each model that has one: the input of its head. `probe`, `similar` and
    `export --embeddings` use the vectors. A vector can identify a patient across data sets, as a film can."""

    embed_under_pseudonyms: bool = False
    """Allow --embed on a pseudonymised study table, although the vectors can identify the patients."""

    precision: Precision = "auto"
    """Arithmetic of the models. auto: bf16 where the machine has units for it, else fp16 (GPU), else fp32. tf32 and
    fp16 need a GPU; fp32 is exact on a GPU, too."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the models with torch.compile. auto: compile where a trial shows that a run of at least 10,000 studies
    repays it."""

    limit: int = 0
    """Score at most this many studies. 0: all."""

    batch_studies: int = 0
    """Studies that travel together from stage to stage. 0: 128 where a GPU predicts, 64 on CPUs, fewer in a short run.
    The views of one forward pass are chosen apart from it, to fit the memory of the device."""

    part_studies: int = 256
    """Studies in one part file. A crash costs each writer at most this many."""

    decode_timeout_s: float = DECODE_TIMEOUT_S
    """Seconds that decoding one image may take. A study with a slower image gets the reason timeout."""

    max_failed_fraction: float = 0.1
    """End with exit status 3 when more than this fraction of at least 50 studies failed."""

    wait_for_lock_s: float = 0.0
    """Seconds to wait while another run holds the score root, before exit status 4. 300 where a scheduler starts a new
    attempt after a crash: the lock of a run that was killed is free 180 s after its last sign of life."""

    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        checks.at_least("wait_for_lock_s", self.wait_for_lock_s, 0)
        checks.at_least("limit", self.limit, 0)
        checks.at_least("batch_studies", self.batch_studies, 0)
        checks.at_least("part_studies", self.part_studies, 1)
        checks.more_than("decode_timeout_s", self.decode_timeout_s, 0)
        checks.between("max_failed_fraction", self.max_failed_fraction, 0, 1)
        if not self.models and not self.segmenter:
            raise ConfigError("nothing to score with: name --models A,B, --segmenter URL or both")
        if (self.explain or self.tta or self.embed) and not self.models:
            raise ConfigError("--explain, --tta and --embed need models; name some with --models A,B")
        checks.known_words(self)

    def check_pseudonyms(self) -> None:
        """Refuse --embed on a pseudonymised study table, unless the user allows it."""
        if self.embed and not self.embed_under_pseudonyms:
            raise ConfigError(
                "--embed on a pseudonymised study table: a feature vector can identify a patient across data sets, as "
                "a film can; leave --embed out, or add --embed-under-pseudonyms"
            )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Scoring):
    """Score every study of an archive with an ensemble and a lung segmenter: one row per study.

    Example: cxrpipe score --archive s3://bucket/cxr/ --models models/a,models/b --segmenter models/lungs --out scores

    Every study is scored exactly once. The same command resumes an interrupted run; after a complete run it says so and
    does nothing.
    """

    outline: ClassVar[Outline] = {
        EVERYBODY: "archive studies models segmenter out",
        "studies to score": "split limit incremental retry dry_run",
        **Scoring.outline,
    }

    archive: Url | None = None
    """Archive to index and score. Name this or --studies."""

    studies: Url | None = None
    """Study table to score. Name this or --archive."""

    split: SplitOrAll = "all"
    """Studies to score."""

    incremental: bool = False
    """Score only studies that no complete run of these models holds: new studies, changed studies, and failed ones that
    may succeed now. An interrupted run of these models is completed first."""

    retry: tuple[Name, ...] = field(default=(), metadata={"alone": "retryable"})
    """Score again the studies that failed for these reasons. --retry alone: those that may succeed without any change
    (timeout, missing, denied)."""

    dry_run: bool = False
    """Say how many studies are new, changed, to be retried and done. Write nothing."""

    def __post_init__(self) -> None:
        checks.one_source(self.archive, self.studies)
        super().__post_init__()
