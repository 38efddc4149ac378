"""Peers from the user's own files: networks that spandrel loads, ONNX files, any command line."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unires.bench.interface import Answer, Method
from unires.bench.peers import need, to_array
from unires.bench.sets import Case, read_pixels
from unires.degrade import operators, resample
from unires.errors import UniresError, shown

SLOWEST = 1800  # seconds that a command may take for one photo


def spandrel(text: str, file: str) -> Method:
    """Any network that `spandrel` recognises from a weights file: Real-ESRGAN, SwinIR, NAFNet, Restormer, ...
    Raises UniresError if the file isn't there or isn't recognised."""
    path = _existing(file)
    package = _import_spandrel()
    try:
        model = package.ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # it raises many kinds
        raise UniresError(f"spandrel can't load {shown(path)}: {_first_line(error)}.") from error
    model.eval()

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            out: Tensor = model(x)
        return out

    name = f"{model.architecture.name} x{model.scale}"
    return Method(text, lambda case: enlarged(case, int(model.scale), run, name), _digest(path))


def _import_spandrel() -> Any:
    """spandrel imports torchvision for two of its architectures. Without torchvision it gets a stand-in while it is
    imported, so that all the others work."""
    hint = "pip install --no-deps spandrel; pip install einops"
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
    except ImportError:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        standins = {name: types.ModuleType(name) for name in names}
        for attribute in ("InterpolationMode", "rotate", "normalize"):
            setattr(standins[names[2]], attribute, None)
        sys.modules.update(standins)
        try:
            return need("spandrel", "spandrel", hint)
        finally:
            for name in names:
                sys.modules.pop(name, None)
    return need("spandrel", "spandrel", hint)


def onnx(text: str, file: str) -> Method:
    """An ONNX file with one input, 1 x 3 x H x W in [0, 1], and one output of that size or an enlarged one. Raises
    UniresError if it isn't there or can't be loaded."""
    path = _existing(file)
    runtime = need("onnxruntime", "onnxruntime", "pip install onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UniresError(f"onnxruntime can't load {shown(path)}: {_first_line(error)}.") from error
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {name: x.numpy()})[0], dtype=np.float32))

    def restore(case: Case) -> Answer:
        # the scale is not written in the file: the first result tells
        probe = run(case.lq[..., :64, :64].contiguous())
        return enlarged(case, max(1, round(probe.shape[-1] / min(64, case.lq.shape[-1]))), run, path.name)

    return Method(text, restore, _digest(path))


def enlarged(case: Case, scale: int, run: Callable[[Tensor], Tensor], name: str) -> Answer:
    """Run a network that enlarges by `scale` on a photo of the final size. Where the photo was reduced by that very
    factor, it is reduced again first, as the network expects; elsewhere the network gets the photo as it is, and its
    result is reduced (area). Both are said in the note."""
    x, size = case.lq, (case.lq.shape[-2], case.lq.shape[-1])
    if scale == 1:
        return Answer(run(x), note=name)
    if case.truth.scale == scale:
        small = resample.resize(x, resample.reduced_size(*size, scale), "bicubic")
        return Answer(_fit(run(operators.round8(small)), size, "bicubic"), note=f"{name}, reduced first")
    return Answer(_fit(run(x), size, "area"), note=f"{name}, result reduced")


def _fit(x: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    return x if tuple(x.shape[-2:]) == size else resample.resize(x.float(), size, kernel)


def command(text: str, line: str) -> Method:
    """Any program: `{input}` and `{output}` in its command line stand for PNG files. No shell is involved. A result of
    another size is resized. Raises UniresError if either is missing."""
    words = shlex.split(line)
    for wanted in ("{input}", "{output}"):
        if not any(wanted in w for w in words):
            raise UniresError(f"The command {shown(line)} has no {wanted}.")

    def restore(case: Case) -> Answer:
        from PIL import Image

        with tempfile.TemporaryDirectory(prefix="unires-") as folder:
            source, target = Path(folder) / "input.png", Path(folder) / "output.png"
            Image.fromarray(np.rint(to_array(case.lq) * 255).astype(np.uint8)).save(source)
            filled = [w.replace("{input}", str(source)).replace("{output}", str(target)) for w in words]
            try:
                done = subprocess.run(filled, capture_output=True, text=True, timeout=SLOWEST, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise UniresError(f"{words[0]} can't be run: {_first_line(error)}.") from error
            if done.returncode or not target.is_file():
                said = (done.stderr.strip() or done.stdout.strip()).splitlines()
                raise UniresError(f"{words[0]} failed with status {done.returncode}: {said[-1] if said else 'no word'}")
            out = read_pixels(target)
        return Answer(_fit(out, (case.lq.shape[-2], case.lq.shape[-1]), "area"))

    return Method(text, restore)


KINDS: dict[str, Callable[[str, str], Method]] = {"spandrel": spandrel, "onnx": onnx, "cmd": command}


def _existing(file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UniresError(f"There is no weights file {shown(path)}.")
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

