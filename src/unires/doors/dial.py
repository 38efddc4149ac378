"""`unires dial PHOTO`: a page with a live slider from least error to crispest, and the photo at the place that was
chosen. It restores twice, by `Restorer`, and blends."""

from __future__ import annotations

import argparse
import base64
import html
import io
import os
import shlex
from pathlib import Path
from typing import Any

from unires.errors import OptionError, shown

HELP = """\
Restores a photo twice, closest to the truth and as crisp as can be, and makes a page with a slider between the two.

  unires dial old.jpg                  writes old.dial.html beside it; open it in a browser
  unires dial old.jpg --at 0.35        writes old.restored.jpg, as the slider showed it at 0.35, with all that is in
                                       the original's file (EXIF, colour profile, ...)

Of a photo of more than 4 megapixels the page shows the middle, restored by itself; --at restores the whole.
"""
MOST_PIXELS = 4_000_000  # of a page; of a larger photo the middle is shown

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;margin:1.5em;background:#222;color:#eee}}
.photo{{position:relative;display:inline-block;overflow:auto;max-width:100%}}
.photo img{{display:block}}
.photo img+img{{position:absolute;inset:0}}
#before{{visibility:hidden}}
input{{width:min(30em,80vw);vertical-align:middle}}
code{{background:#333;padding:.2em .4em}}
</style>
<h1>{title}</h1>
<p><label>crispest <input id="dial" type="range" min="0" max="1" step="0.01" value="1"> least error</label>
<output id="value">1</output> &nbsp; <button id="hold">hold to see the photo as it was</button></p>
<p>To keep it: <code>{command} --at <span id="at">1</span></code></p>
<div class="photo">
<img alt="least error" {faithful}>
<img alt="crispest" id="crisp" style="opacity:0" {crisp}>
<img alt="before" id="before" {before}>
</div>
<script>
const get = id => document.getElementById(id);
get("dial").oninput = event => {{
  const value = Number(event.target.value);
  get("crisp").style.opacity = 1 - value;
  get("value").textContent = get("at").textContent = value;
}};
const show = seen => () => get("before").style.visibility = seen ? "visible" : "hidden";
get("hold").onpointerdown = show(true);
get("hold").onpointerup = get("hold").onpointerleave = show(false);
</script>
</html>
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The command and its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "dial", help="a page with a live slider, from least error to crispest", description=HELP
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG, WebP, TIFF or AVIF")
    parser.add_argument("-o", "--output", metavar="OUT", help="where to write (default: beside the photo)")
    parser.add_argument("--at", type=float, metavar="0..1",
                        help="write the photo instead of the page: 1 is least error, 0 crispest")
    parser.add_argument("--seed", type=int, default=0, help="of what is random in the crisper one (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there (never the photo)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read, restore twice, write."""
    import numpy as np

    from unires.photo import check_output, read_photo, write_photo
    from unires.photo.atomic import exists, refuse_existing, write_atomically
    from unires.restore.restorer import Restorer

    if args.at is not None and not 0 <= args.at <= 1:
        raise OptionError(f"The dial goes from 0 to 1, not to {args.at:g}.")
    source, photo = Path(args.photo), read_photo(args.photo)
    ending = "dial.html" if args.at is None else f"restored{photo.extension}"
    out = Path(args.output) if args.output else source.with_name(f"{source.stem}.{ending}")
    if os.path.exists(out) and os.path.samefile(source, out):
        raise OptionError(f"{shown(out)} is the photo itself, and originals are never written over.")
    if args.at is not None:
        check_output(photo, out, overwrite=args.overwrite)
    elif exists(out) and not args.overwrite:
        raise refuse_existing(out)

    restorer = Restorer.from_pretrained(args.model, args.device)
    pixels = photo.visible()
    if args.at is None:
        pixels = _middle(pixels)
    whole = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    faithful, crisp = (restorer(whole, fidelity=aim, seed=args.seed) for aim in (1.0, 0.0))
    if args.at is not None:
        write_photo(photo.with_pixels(args.at * faithful + (1 - args.at) * crisp), out, overwrite=args.overwrite)
        print(f"Restored {shown(source)} to {shown(out)}, at {args.at:g} between crispest and least error.")
        return
    page = PAGE.format(
        title=html.escape(source.name), command=html.escape(_command(args)),
        faithful=_picture(faithful, photo.icc), crisp=_picture(crisp, photo.icc), before=_picture(whole, photo.icc),
    )
    write_atomically(out, lambda file: file.write(page.encode()), overwrite=args.overwrite)
    print(f"Written to {shown(out)}: open it in a browser.")


def _command(args: argparse.Namespace) -> str:
    """What restores the photo as the page shows it, but for the place on the dial."""
    chosen = [f"--seed {args.seed}"] * (args.seed != 0) + [f"--model {shlex.quote(str(args.model))}"] * bool(args.model)
    return " ".join(("unires dial", shlex.quote(args.photo), *chosen))


def _middle(pixels: Any) -> Any:
    """The middle of a picture that has more than MOST_PIXELS, in its own proportions."""
    height, width = pixels.shape[:2]
    share = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    h, w = max(1, int(height * share)), max(1, int(width * share))
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[top : top + h, left : left + w]


def _picture(values: Any, icc: bytes | None) -> str:
    """Attributes of an <img>, height x width x 1 or 3 in [0, 1], as PNG in the photo's own colours."""
    import numpy as np
    from PIL import Image

    data = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    memory = io.BytesIO()
    Image.fromarray(data[..., 0] if data.shape[2] == 1 else data).save(memory, "PNG", icc_profile=icc)
    code = base64.b64encode(memory.getvalue()).decode()
    return f'width="{data.shape[1]}" height="{data.shape[0]}" src="data:image/png;base64,{code}"'
