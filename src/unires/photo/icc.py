"""A colour profile for colours that a file states by numbers, so that every format can carry them.

Source: ITU-T H.273 (the numbers), ICC.1:2022 (version 4: matrix and tone curves), Lindbloom's equations for the matrix
of primaries and for Bradford's adaptation to the profile's white, D50."""

from __future__ import annotations

import struct

import numpy as np

PRIMARIES = {  # x and y of red, green, blue; all with the white D65
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, sRGB
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
CURVES = {1: _BT709, 4: (2.2,), 5: (2.8,), 6: _BT709, 8: (1.0,), 13: _SRGB, 14: _BT709, 15: _BT709}
NAMES = {1: "BT.709", 9: "BT.2020", 12: "Display P3"}
_D65, _D50 = np.array([0.95047, 1.0, 1.08883]), np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def from_numbers(primaries: int, transfer: int) -> bytes | None:
    """The profile of an RGB space by its numbers; None where a matrix and curves can't say it (high dynamic range)."""
    if primaries not in PRIMARIES or transfer not in CURVES:
        return None
    x, y = np.array(PRIMARIES[primaries]).reshape(3, 2).T
    unscaled = np.stack((x / y, np.ones(3), (1 - x - y) / y))
    colours = unscaled * np.linalg.solve(unscaled, _D65)
    adapt = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ _D65)) @ _BRADFORD)
    curve = CURVES[transfer]
    kind = 0 if len(curve) == 1 else 3
    tone = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(curve)
    tags = {b"desc": _text(NAMES[primaries]), b"cprt": _text("Public domain"), b"wtpt": _xyz(_D50),
            b"chad": b"sf32\0\0\0\0" + _fixed(adapt.ravel())}  # fmt: skip
    tags |= {name + b"XYZ": _xyz(column) for name, column in zip((b"r", b"g", b"b"), (adapt @ colours).T, strict=True)}
    tags |= {name + b"TRC": tone for name in (b"r", b"g", b"b")}
    return _profile(tags)


def _profile(tags: dict[bytes, bytes]) -> bytes:
    table, data, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        at = places.setdefault(value, start + len(data))  # the three curves share one
        if at == start + len(data):
            data += value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", at, len(value))
    size = struct.pack(">I", start + len(data))
    head = size + bytes(4) + b"\x04\x30\0\0mntrRGB XYZ " + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    return (head.ljust(68, b"\0") + _fixed(_D50)).ljust(128, b"\0") + table + data


def _fixed(values: object) -> bytes:
    """Numbers as s15Fixed16."""
    return np.rint(np.asarray(values, np.float64) * 65536).astype(">i4").tobytes()


def _xyz(values: object) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _text(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words
