"""Settings of `forget`."""

from dataclasses import dataclass

from cxrpipe.config.values import Id, Url


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """Remove a patient from a score root, and keep the patient out of later runs.

    Example: cxrpipe forget --patient 00000013 --out scores

    Published rows, parts and frozen lists of studies are rewritten without the patient.
    """

    patient: Id
    """Id of the patient, as in the study table."""

    out: Url
    """Score root."""
