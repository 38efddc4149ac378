"""Formats whose decoders are extras: HEIC (libheif), JPEG XL (libjxl; read only), camera raw (LibRaw; read only).

Without its extra, a file of such a format ends in one sentence that names it. Sizes are read from the header, before
any decoder makes room for pixels. Sources: ISO/IEC 18181-1 (JPEG XL codestream), 18181-2 (its boxes)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from unires.errors import PhotoError
from unires.photo import exif as exif_block
from unires.photo import jpeg, tiff
from unires.photo.codecs import CheckSize, Decoded, Refusal, colours, one_page, opened, read_jpeg, say_upright
from unires.photo.model import Encoding, IntArray, Photo

RAW = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
WRITTEN_AS = {".jxl": ".png"} | dict.fromkeys(RAW, ".tif")  # what is only read, and what its results are
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
_QUALITY = 92
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def read_heic(file: BinaryIO, check: CheckSize) -> Decoded:
    """HEIC and HEIF; more than 8 bits become 16. It turns pictures upright itself."""
    heif = _extra("pillow_heif", "heic", "a HEIC picture")
    data = file.read()
    picture = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    one_page(len(picture))
    check(*picture.size)
    profile = colours(data, picture.info.get("icc_profile"))
    info, heif_orientation = picture.info, heif.set_orientation
    heif_orientation(info)
    sampling = {420: "4:2:0", 422: "4:2:2", 444: "4:4:4"}.get(info.get("chroma", 0), "")
    samples = np.asarray(picture)
    exif = exif_block.without_prefix(info.get("exif"))
    fields: dict[str, Any] = {"icc": profile, "exif": exif, "xmp": info.get("xmp") or None}
    return Decoded(samples, (1 << info["bit_depth"]) - 1, encoding=Encoding(subsampling=sampling), **fields)


def encode_heic(values: IntArray, photo: Photo, quality: int | None) -> bytes:
    """HEIC of uint8, height x width x (1 to 4), with all that `photo` carries."""
    heif = import_module("pillow_heif")
    height, width, channels = values.shape
    own = photo.encoding.subsampling if photo.format == "HEIC" else ""
    options: dict[str, Any] = {"chroma": int((own or "4:4:4").replace(":", ""))} if channels >= 3 else {}
    if photo.icc:
        options["icc_profile"] = photo.icc
    exif = b"Exif\0\0" + photo.exif if photo.exif else None
    out = io.BytesIO()
    data = np.ascontiguousarray(values).data
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    quality = _QUALITY if quality is None else quality
    heif.encode(mode, (width, height), data, out, quality=quality, exif=exif, xmp=photo.xmp, **options)
    return out.getvalue()


def check_writable(target: str) -> None:
    """Raises `PhotoError` where the format needs an extra that is not there."""
    if target == "HEIC":
        try:
            import_module("pillow_heif")
        except ImportError:
            raise PhotoError("To write HEIC an extra is needed: pip install 'unires[heic]'.") from None


def read_jxl(file: BinaryIO, check: CheckSize) -> Decoded:
    """JPEG XL of any depth. Of one that holds a JPEG, packed without loss, its pixels."""
    libjxl = _extra("pillow_jxl", "jxl", "a JPEG XL picture")
    import imagecodecs

    data = file.read()
    width, height, animated = _jxl_header(_codestream(data))
    check(width, height)
    if animated:
        raise Refusal("is an animation; save the picture you want on its own")
    is_jpeg, _, unpacked, icc, boxes = libjxl.Decoder(num_threads=0)(data)
    if is_jpeg:
        decoded = read_jpeg(io.BytesIO(bytes(unpacked)), check)
        decoded.format, decoded.fields["encoding"] = "PNG", Encoding(lossless=True)
        return decoded
    found = {bytes(box.box_type): bytes(box.data) for box in reversed(boxes)}
    exif = found.get(b"Exif", b"")
    if not exif_block.byte_order(exif):
        exif = exif[4:]  # its first number says where the block begins
    fields = {"icc": icc or None, "exif": exif or None, "xmp": found.get(b"xml ")}
    say_upright(fields)  # libjxl turns pictures itself
    samples = np.asarray(imagecodecs.jpegxl_decode(data))
    if samples.dtype not in (np.uint8, np.uint16):
        raise Refusal("holds float values, which UniRes reads from TIFF only")
    return Decoded(samples, np.iinfo(samples.dtype).max, format="PNG", **fields)


def read_raw(file: BinaryIO, check: CheckSize) -> Decoded:
    """Camera raw, developed as the camera would have: its white balance, sRGB, 16 bits."""
    rawpy = _extra("rawpy", "raw", "a camera raw file")
    fields = {k: v for k, v in said_by_raw(file).items() if k in ("exif", "xmp")}
    file.seek(0)
    with rawpy.imread(file) as raw:
        check(raw.sizes.iwidth, raw.sizes.iheight)
        samples = raw.postprocess(use_camera_wb=True, output_bps=16)
    say_upright(fields)  # LibRaw too
    return Decoded(samples, 65535, format="TIFF", encoding=Encoding(lossless=True), **fields)


def said_by_raw(file: BinaryIO) -> dict[str, Any]:
    """Fields of `Photo` that a camera raw file holds, in the place that its maker keeps them in; none where it isn't
    known. Most are TIFF; RAF says it in the JPEG that it shows on the camera, CR3 in boxes of its own, each a block
    for one table (both as ExifTool's documentation describes them)."""
    from PIL import JpegImagePlugin

    file.seek(0)
    head = file.read(1 << 16)
    try:
        if head.startswith(b"FUJIFILM"):
            at, length = struct.unpack_from(">II", head, 84)
            file.seek(at)
            with opened(JpegImagePlugin.JpegImageFile, io.BytesIO(file.read(length))) as image:
                return jpeg.metadata(image)[0]
        if head[4:12] == b"ftypcrx ":
            blocks = [_box(head, name) for name in (b"CMT1", b"CMT2", b"CMT4")]
            (order,) = {exif_block.byte_order(block) for block in blocks if block}
            tables = exif_block.Tables(order, *(exif_block.parse(block).main for block in blocks))
            return {"exif": exif_block.build(tables)}
        return tiff.Directory(file).metadata()
    except (ValueError, SyntaxError, OSError, struct.error):
        return {}


def _box(data: bytes, name: bytes) -> bytes:
    """The content of the first box of that name (ISO 14496-12), or nothing."""
    at = data.find(name, 4)
    return data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")] if at > 0 else b""


def _extra(module: str, extra: str, what: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise Refusal(f"is {what}, for which an extra is needed: pip install 'unires[{extra}]'") from None


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream, out of its container."""
    if not data.startswith(_JXL):
        return data[:64]
    at = 0
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + 4 * (kind == b"jxlp")
            return data[start : start + 64]
        if length < head:
            break
        at += length
    raise ValueError("no codestream")


def _jxl_header(stream: bytes) -> tuple[int, int, bool]:
    """Width, height, and whether it is an animation (18181-1, annexes D.2 and D.3.1)."""
    if stream[:2] != b"\xff\x0a":
        raise ValueError("no JPEG XL")
    bits = _bits(stream[2:])

    def u(count: int) -> int:
        return sum(next(bits) << i for i in range(count))

    def side(by_eight: int) -> int:
        return 8 * (u(5) + 1) if by_eight else 1 + u((9, 13, 18, 30)[u(2)])

    def size() -> tuple[int, int]:
        by_eight = u(1)
        height = side(by_eight)
        ratio = u(3)
        if ratio:
            across, down = _RATIOS[ratio - 1]
            return height * across // down, height
        return side(by_eight), height

    width, height = size()
    if u(1) or not u(1):  # all as usual, or no extra fields
        return width, height, False
    u(3)  # orientation
    if u(1):
        size()  # its size on a screen
    return width, height, not u(1) and bool(u(1))  # what follows a preview is not looked at


def _bits(data: bytes) -> Iterator[int]:
    """Lowest first."""
    for byte in data:
        for i in range(8):
            yield byte >> i & 1
    raise ValueError("cut short")
