"""Restore a sample photo and leave a before/after picture: `make demo`.

The photo comes with scikit-image, is degraded on the spot and restored with the shipped weights: nothing is
downloaded."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

import unires

RECIPE = "defocus(radius=1.5) + noise(sigma=12) + jpeg(quality=45)"
GAP, BAND = 8, 24


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, in dB."""
    error = np.mean((np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """The pictures in a row, each under its title."""
    width, height = next(iter(pictures.values())).size
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + BAND), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, picture) in enumerate(pictures.items()):
        sheet.paste(picture, (i * (width + GAP), BAND))
        draw.text((i * (width + GAP) + 2, 6), title, fill="black")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default=RECIPE, help="how to degrade the sample photo")
    parser.add_argument("--out", type=Path, default=Path("before-after.png"), help="where to write the picture")
    args = parser.parse_args()

    photo = Image.fromarray(data.astronaut())
    before = unires.degrade(photo, args.recipe, seed=1)
    restorer = unires.Restorer.from_pretrained()
    started = time.perf_counter()
    after = restorer(before)
    seconds = time.perf_counter() - started

    titles = {
        f"degraded: {args.recipe}, {psnr(before, photo):.1f} dB": before,
        f"restored in {seconds:.1f} s, {psnr(after, photo):.1f} dB": after,
        "the original": photo,
    }
    side_by_side(titles).save(args.out)
    print(f"{psnr(before, photo):.2f} dB before, {psnr(after, photo):.2f} dB after, {seconds:.2f} s. See {args.out}.")


if __name__ == "__main__":
    main()
