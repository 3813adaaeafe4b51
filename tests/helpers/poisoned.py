"""The real decoder, but for files that ask for worse. Apart from `decoders`, whose children start without it."""

from collections.abc import Sequence

from decoders import obey

from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decoded, decode_view


def obey_or_decode(data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    """What follows the last byte of a picture is nothing to its decoder."""
    obey(data, name, preparations)
    return decode_view(data, name, preparations)
