"""A file that is cut short anywhere is damaged; one that is whole is not, readable or not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image

from unires.photo.whole import damaged


@pytest.mark.parametrize("name", ["jpg", "progressive.jpg", "png", "webp", "tif", "lzw.tif", "avif"])
def test_cut_short_anywhere(
    tmp_path: Path, smooth: Callable[..., Any], make_exif: Callable[..., Any], name: str
) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(smooth(20, 30)).save(thumbnail, "JPEG")  # its end is not the photo's
    exif = b"Exif\0\0" + make_exif(1, 60, 40, thumbnail.getvalue())
    options: dict[str, Any] = {"exif": exif, "progressive": "progressive" in name} if "jpg" in name else {}
    options |= {"compression": "tiff_lzw"} if "lzw" in name else {}
    path = tmp_path / f"a.{name}"
    Image.fromarray(smooth(40, 60)).save(path, **options)
    content = path.read_bytes()
    assert not damaged(path)
    for share in (0, 0.1, 0.5, 0.9, 0.98):
        path.write_bytes(content[: int(share * len(content))])
        assert damaged(path), share
    path.write_bytes(content + b"more behind it")
    assert not damaged(path)


def test_what_is_not_read_is_not_damaged_for_that(tmp_path: Path, smooth: Callable[..., Any]) -> None:
    tifffile.imwrite(tmp_path / "a", smooth(40, 60), compression="jpeg2000")
    assert not damaged(tmp_path / "a")
    for content in (b"my notes", b"GIF89a", b"\0\0\0\x0cjP  \r\n\x87\n"):
        (tmp_path / "a").write_bytes(content)
        assert not damaged(tmp_path / "a"), content
    for content in (b"", bytes(99)):
        (tmp_path / "a").write_bytes(content)
        assert damaged(tmp_path / "a"), content
