"""Writes PNGs of every kind, row by row: encoders would choose colour type, depth, filters and chunks themselves."""

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type (grey, RGB, palette, grey with alpha, RGBA) → depths that it may have (PNG, table 11.1)."""
_ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def written(
    samples: np.ndarray,
    colour_type: int,
    depth: int,
    *,
    interlaced: bool = False,
    filters: Sequence[int] = (0, 1, 2, 3, 4),
    extra: bytes = b"",
    idat_bytes: int = 1 << 30,
) -> bytes:
    """(H, W, channels) whole numbers → PNG. A palette has random colours.

    filters     types of the row filters (PNG, section 9), used in turn
    extra       chunks between IHDR and the pixels
    idat_bytes  largest size of an IDAT chunk
    """
    rows, columns, _ = samples.shape
    passes = [samples[top::down, left::right] for top, down, left, right in _ADAM7] if interlaced else [samples]
    packed = zlib.compress(b"".join(scanlines(each, depth, filters) for each in passes if each.size))
    if colour_type == 3:
        extra += chunk(b"PLTE", np.random.default_rng(0).integers(0, 256, 3 << depth, np.uint8).tobytes())
    pixels = b"".join(chunk(b"IDAT", packed[at : at + idat_bytes]) for at in range(0, len(packed), idat_bytes))
    return header(rows, columns, colour_type, depth, interlaced) + extra + pixels + chunk(b"IEND", b"")


def header(rows: int, columns: int, colour_type: int, depth: int, interlaced: bool = False) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, colour_type, 0, 0, interlaced))


def scanlines(samples: np.ndarray, depth: int, filters: Sequence[int]) -> bytes:
    """Rows of packed samples, each behind its filter byte and filtered by it."""
    distance = max(1, depth * samples.shape[2] // 8)  # of the pixel to the left, in bytes
    rows, above = [], None
    for number, row in enumerate(samples):
        line = np.frombuffer(_packed(row.ravel(), depth), np.uint8).astype(int)
        above = np.zeros_like(line) if above is None else above
        left, corner = (np.concatenate([np.zeros(distance, int), each])[: line.size] for each in (line, above))
        kind = filters[number % len(filters)]
        guess = (0 * line, left, above, (left + above) // 2, _paeth(left, above, corner))[kind]
        rows.append(bytes([kind]) + (line - guess).astype(np.uint8).tobytes())
        above = line
    return b"".join(rows)


def _packed(samples: np.ndarray, depth: int) -> bytes:
    if depth >= 8:
        return samples.astype(f">u{depth // 8}").tobytes()
    bits = np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, -depth:]
    return np.packbits(bits).tobytes()


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    distances = np.abs(left + above - corner - np.stack([left, above, corner]))
    return np.choose(distances.argmin(axis=0), [left, above, corner])  # the first of equals, as the standard asks


def every_kind() -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of all colour types and depths: interlaced or not, with each filter and with all in turn."""
    rng = np.random.default_rng(1)
    for colour_type, depths in DEPTHS.items():
        for depth in depths:
            samples = rng.integers(0, 1 << depth, (37, 29, CHANNELS[colour_type]))
            for interlaced in (False, True):
                for filters in ((0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)):
                    name = f"type {colour_type}, {depth} bits, interlaced {interlaced}, filters {filters}"
                    yield name, written(samples, colour_type, depth, interlaced=interlaced, filters=filters)
