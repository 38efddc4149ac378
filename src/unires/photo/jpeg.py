"""JPEG: its segments, and output that is encoded as the input was, but never worse than well.

Sources: ITU-T T.81 (JPEG), Exif 2.32, XMP part 3 (Adobe), and the segments' usual order in camera files.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

from unires.errors import PhotoError
from unires.photo import exif as exif_block
from unires.photo.model import Encoding, Photo

if TYPE_CHECKING:
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

# A restored photo kept in the tables of a badly compressed original would be spoilt again: no number of the
# output's quantisation tables is above that of this quality.
FLOOR = 92
_UNKNOWN_SOURCE = 95
_LOCK = threading.Lock()
_LARGEST = 65533
_PHOTOSHOP = b"Photoshop 3.0\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def metadata(image: JpegImageFile) -> tuple[dict[str, Any], Encoding]:
    """Fields of `Photo` that the segments hold (the profile apart), and how the file was encoded.

    Not kept, since they would be wrong: indexes of further pictures (MPF), signatures (JUMBF), and what
    follows the picture in the file.
    """
    from PIL import JpegImagePlugin

    info = image.info
    extras, blocks = [], b""
    for name, body in image.applist:
        if name == "APP1" and body.startswith(_MORE_XMP):
            extras.append(("APP1", body))
        elif name == "APP13" and body.startswith(_PHOTOSHOP):
            # Resources larger than a segment go on in the next one.
            blocks += body[len(_PHOTOSHOP) :]
    fields = {
        "exif": exif_block.without_prefix(info.get("exif")),
        "xmp": info.get("xmp"),
        "iptc": blocks or None,
        "comment": info.get("comment") or None,
        "dpi": _density(info),
    }
    tables = tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
    sampling = _SAMPLINGS.get(JpegImagePlugin.get_sampling(image), "")
    progressive = bool(info.get("progressive") or info.get("progression"))
    return fields, Encoding(tables=tables, subsampling=sampling, progressive=progressive, extras=tuple(extras))


def check_room(photo: Photo) -> None:
    """Raises `PhotoError` where what the photo carries doesn't fit into a JPEG's segments."""
    for what, value, head in (("EXIF data", photo.exif, 6), ("XMP data", photo.xmp, 29), ("comment", photo.comment, 0)):
        if value and len(value) > _LARGEST - head:
            raise PhotoError(f"The photo's {what} is too long for JPEG; PNG, WebP and TIFF can hold it.")


def encode(image: Image.Image, photo: Photo, quality: int | None) -> bytes:
    """JPEG of an L or RGB `image` with all that `photo` carries.

    Without a `quality` (1 to 100): a photo that came as JPEG keeps its quantisation tables, made finer where
    they are coarser than those of quality 92, and its subsampling; any other gets quality 95 without
    subsampling. Raises `ValueError` when the metadata do not fit into a JPEG.
    """
    own = photo.format == "JPEG"
    options: dict[str, Any] = {"subsampling": 0}
    if own and photo.encoding.subsampling:
        options["subsampling"] = photo.encoding.subsampling
    if quality is not None:
        options["quality"] = quality
    elif own and photo.encoding.tables:
        options["qtables"] = _at_least(photo.encoding.tables, FLOOR)
    else:
        options["quality"] = _UNKNOWN_SOURCE
    extra = b""
    if photo.iptc:
        room = _LARGEST - len(_PHOTOSHOP)
        for start in range(0, len(photo.iptc), room):
            extra += _segment(0xED, _PHOTOSHOP + photo.iptc[start : start + room])
    for _, body in photo.encoding.extras if own else ():
        extra += _segment(0xE1, body)
    return _saved(
        image,
        progressive=own and photo.encoding.progressive,
        optimize=True,
        dpi=_whole(photo.dpi),
        exif=b"Exif\0\0" + photo.exif if photo.exif else b"",
        icc_profile=photo.icc or b"",
        xmp=photo.xmp or b"",
        comment=photo.comment or b"",
        extra=extra,
        **options,
    )


def _saved(image: Image.Image, **options: Any) -> bytes:
    from PIL import ImageFile

    out = io.BytesIO()
    try:
        image.save(out, format="JPEG", **options)
        return out.getvalue()
    except OSError:
        # Pillow guesses how large an optimised JPEG may become, and very noisy pictures become larger than
        # that. The guess can only be raised for all threads at once, which does no harm to the others.
        out = io.BytesIO()
        with _LOCK:
            usual = ImageFile.MAXBLOCK
            ImageFile.MAXBLOCK = max(usual, 8 * image.width * image.height)
            try:
                image.save(out, format="JPEG", **options)
            finally:
                ImageFile.MAXBLOCK = usual
        return out.getvalue()


def _at_least(tables: tuple[tuple[int, ...], ...], quality: int) -> list[list[int]]:
    """`tables`, no number above that of the usual tables of `quality` (the first is for brightness, others
    for colour)."""
    from PIL import Image

    probe = io.BytesIO()
    Image.new("RGB", (8, 8)).save(probe, format="JPEG", quality=quality)
    with Image.open(probe, formats=["JPEG"]) as image:
        usual = [list(table) for table in image.quantization.values()]  # type: ignore[attr-defined]
    return [[min(a, b) for a, b in zip(t, usual[min(i, 1)], strict=True)] for i, t in enumerate(tables[:4])]


def _density(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Dots an inch from the JFIF segment (that in EXIF stays in EXIF)."""
    x, y = info.get("jfif_density", (0, 0))
    inch = {1: 1.0, 2: 2.54}.get(info.get("jfif_unit", 0), 0.0)
    return (x * inch, y * inch) if x and y and inch else None


def _whole(dpi: tuple[float, float] | None) -> tuple[int, int]:
    x, y = dpi or (0.0, 0.0)
    return min(round(x), 65535), min(round(y), 65535)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
