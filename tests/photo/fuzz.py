"""A coverage-guided fuzzer over the readers: `make fuzz`, or `python tests/photo/fuzz.py SECONDS`.

Whatever the bytes, reading ends in a photo or in one sentence; a photo that was read can be written, and what is
written reads back the same. What breaks that is kept in `finds`, where the ordinary tests run it (test_photo_finds.py).
Needs the extra `fuzz` (atheris)."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

FINDS = Path(__file__).parent / "finds"
MOST_PIXELS = 200_000


def check(data: bytes, folder: Path) -> None:
    """Raises AssertionError, or whatever a reader or writer lets through, where a promise is broken."""
    import numpy as np

    from unires.errors import PhotoError
    from unires.photo import read_photo, write_photo

    source, out = folder / "source", folder / "out.png"
    source.write_bytes(data)
    try:
        photo = read_photo(source, max_pixels=MOST_PIXELS)
    except PhotoError as error:
        said = str(error)
        assert said.endswith(".") and "\n" not in said and len(said) < 500
        return
    with suppress(PhotoError):
        write_photo(photo, out, overwrite=True)
        again = read_photo(out)
        assert np.array_equal(again.samples, photo.samples) and again.icc == photo.icc
        assert sorted(p.name for p in folder.iterdir()) == ["out.png", "source"]


def seeds() -> Iterator[bytes]:
    """Small whole files of every format, with metadata."""
    import imagecodecs
    import numpy as np
    import tifffile
    from PIL import Image, ImageCms

    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 28.0, 40.12)})
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    samples = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    image = Image.fromarray(samples)
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        for mode in ("RGB", "L") if name == "JPEG" else ("RGB", "L", "RGBA"):
            out = io.BytesIO()
            image.convert(mode).save(out, name, exif=exif, icc_profile=icc)
            yield out.getvalue()
    for options in ({}, {"compression": "lzw"}, {"compression": "zlib", "predictor": True, "tile": (16, 16)}):
        out = io.BytesIO()
        tifffile.imwrite(out, samples[..., :3].astype(np.uint16) * 257, photometric="rgb", **options)
        yield out.getvalue()
    yield imagecodecs.png_encode(samples.astype(np.uint16) * 257)
    yield imagecodecs.jpegxl_encode(samples)
    with suppress(ImportError):
        import pillow_heif

        out = io.BytesIO()
        pillow_heif.from_pillow(image).save(out)
        yield out.getvalue()


def main(seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["unires.photo", "PIL", "tifffile"], enable_loader_override=False):
        import tifffile  # noqa: F401
        from PIL import Image  # noqa: F401

        from unires.photo import codecs, encode, exif, files, jpeg, plugins, png, tiff  # noqa: F401

    FINDS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(seeds()):
            (Path(corpus) / str(i)).write_bytes(data)

        def one(data: Any) -> None:
            check(bytes(data), Path(folder))

        limits = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", "-len_control=0", f"-max_total_time={seconds}"]
        atheris.Setup([sys.argv[0], corpus, f"-artifact_prefix={FINDS}{os.sep}", *limits], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
