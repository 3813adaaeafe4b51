"""The real decoder, but for files that ask for worse. Apart from `decoders`, whose children start without it."""

from collections.abc import Sequence

from decoders import obey

from cxrpipe.decoding import Decoded, decode_view
from cxrpipe.transforms import Preparation


def obey_or_decode(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """What follows the last byte of a picture is nothing to its decoder."""
    obey(data, name)
    return decode_view(data, name, preparations)
