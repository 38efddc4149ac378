"""`unires` as a process of its own: exit status, streams, signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

import unires


def program(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(unires.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-m", "unires", *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_as_a_program(photo: Path, tiny_folder: Path) -> None:
    done = program("restore", "holiday.png", "--model", tiny_folder, folder=photo.parent)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("Restored 'holiday.png' to")
    with Image.open(photo.with_name("holiday.restored.png")) as image:
        assert image.size == (60, 40)
    done = program("degrade", "holiday.png", "--recipe", "jpeg(quality=5)", folder=photo.parent)
    assert done.returncode == 0 and photo.with_name("holiday.degraded.png").exists()


def test_what_goes_wrong_in_a_program(photo: Path) -> None:
    for words, status in ((("restore", "missing.jpg"), 1), (("restre",), 2), (("--version",), 0)):
        done = program(*words, folder=photo.parent)
        assert done.returncode == status
        assert "Traceback" not in done.stderr
    assert done.stdout == f"unires {unires.__version__}\n"


STOPPED = """
import time
from unires.doors import cli
def endless(args):
    print("ready", flush=True)
    time.sleep(60)
cli.run_degrade = endless
raise SystemExit(cli.main(["degrade", "photo.png", "--recipe", "noise"]))
"""


def test_sigterm_ends_as_ctrl_c_does() -> None:
    job = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    job.terminate()
    _, said = job.communicate(timeout=30)
    assert job.returncode == 130 and said == "unires: stopped; nothing was half-written.\n"
