"""What is said when something cannot be done; and that saying it needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from unires.errors import OptionError, PhotoError, UniresError, nearest, shown


@given(st.text(max_size=40))
def test_messages_are_one_line(text: str) -> None:
    for message in (shown(text), nearest(text, ["denoise", "dejpeg"], kind="expert")):
        assert "\n" not in message and "\x1b" not in message
        message.encode()


def test_the_nearest_name_is_suggested() -> None:
    experts = ["super-resolution", "motion-deblur", "defocus-deblur", "denoise", "dejpeg", "blind", "keep"]
    for wrong, right in (
        ("denoiz", "denoise"),
        ("Denoise ", "denoise"),
        ("motion_deblur", "motion-deblur"),
        ("superresolution", "super-resolution"),
        ("de-jpeg", "dejpeg"),
        ("kepp", "keep"),
    ):
        assert nearest(wrong, experts, kind="expert").endswith(f"did you mean '{right}'?")
    assert nearest("zzz", ["a", "b", "c"]) == "Unknown name 'zzz'; there are 'a', 'b' and 'c'."
    assert nearest("zzz", ["a"]) == "Unknown name 'zzz'; there is only 'a'."
    assert nearest("zzz", []) == "Unknown name 'zzz'."
    assert issubclass(PhotoError, UniresError) and issubclass(OptionError, UniresError)


def test_imports_stay_light() -> None:
    script = (
        "import sys, unires.photo, unires.errors, unires.photo.tiles\n"
        "heavy = {'torch', 'PIL', 'numpy', 'tifffile', 'imagecodecs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "unires.photo.read_photo\n"
        "assert 'torch' not in sys.modules and 'read_photo' in dir(unires.photo)\n"
        "try: unires.photo.nothing\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit(1)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
