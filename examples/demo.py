"""Restore sample photos and leave before/after pictures: `make demo`.

The photos come with scikit-image, are degraded on the spot and restored with the shipped weights: nothing is
downloaded. `--pictures docs/pictures` makes the README's."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

import unires

# name: photo, recipe, weights (None: UniRes chooses), the part that is shown (left, top, right, bottom)
SAMPLES = {
    "astronaut": (data.astronaut, "defocus(radius=2) + noise(sigma=12) + jpeg(quality=45)", None, (64, 0, 448, 384)),
    "cat": (data.chelsea, "noise(sigma=30)", "denoise", (60, 0, 410, 300)),
    "dial": (data.astronaut, "resize(scale=2.5)", None, (150, 10, 410, 290)),
    "coffee": (data.coffee, "motion(length=9, angle=20) + noise(sigma=1)", "motion-deblur", (100, 40, 484, 360)),
}
GAP, BAND = 8, 22


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, in dB."""
    error = np.mean((np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def side_by_side(pictures: dict[str, Image.Image], box: tuple[int, int, int, int]) -> Image.Image:
    """The same part of each picture at 100 %, in a row, each under its title."""
    width, height = box[2] - box[0], box[3] - box[1]
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + BAND), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, picture) in enumerate(pictures.items()):
        sheet.paste(picture.crop(box), (i * (width + GAP), BAND))
        draw.text((i * (width + GAP) + 2, 5), title, fill="black")
    return sheet


def show(restorer: unires.Restorer, name: str, out: Path) -> None:
    """Degrade and restore one sample; write its before/after picture and print the figures."""
    photo_of, recipe, weights, box = SAMPLES[name]
    photo = Image.fromarray(photo_of())
    before = unires.degrade(photo, recipe, seed=1)
    started = time.perf_counter()
    after = restorer(before, weights=weights)
    seconds = time.perf_counter() - started
    titles = {
        f"degraded, {psnr(before, photo):.1f} dB": before,
        f"restored, {psnr(after, photo):.1f} dB": after,
    }
    if name == "dial":
        crisp = restorer(before, weights=weights, fidelity=0.0)
        titles[f"--fidelity 0, {psnr(crisp, photo):.1f} dB"] = crisp
    titles["the original"] = photo
    side_by_side(titles, box).save(out, quality=92, subsampling=0)
    gain = f"{psnr(before, photo):.2f} dB, restored {psnr(after, photo):.2f} dB in {seconds:.2f} s"
    print(f"{name}: {recipe}: {gain}; see {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="all samples, as JPEG, into this folder")
    args = parser.parse_args()
    restorer = unires.Restorer.from_pretrained()
    if args.pictures is None:
        show(restorer, "astronaut", Path("before-after.png"))
        return
    args.pictures.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        show(restorer, name, args.pictures / f"{name}.jpg")


if __name__ == "__main__":
    main()
