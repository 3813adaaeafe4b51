"""Settings of `forget`."""

from dataclasses import dataclass

from cxrpipe.config.values import Id, Url


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """Remove a patient from a score root, and keep the patient out of later runs.

    Example: cxrpipe forget --patient 00000013 --out scores

    Published rows, parts, frozen lists of studies, readers' verdicts and reading lists are rewritten without the
    patient. All other rows and all columns stay, and so does what lies elsewhere: exports, figures, and models that
    learned from the patient; see --models.
    """

    patient: Id
    """Id of the patient, as in the study table."""

    out: Url
    """Score root."""

    models: tuple[Url, ...] = ()
    """Model folders, or folders of model folders, with commas between: print which of them may have learned from the
    patient, as far as their cards tell. No model is changed."""

    studies: Url = ""
    """Study table, needed only for a root under pseudonyms: the lists of its unfinished runs lie beside the table."""
