"""Networks of the user's own: made on the spot, through spandrel, ONNX and a command line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unires.bench import programs, sets
from unires.errors import UniresError

from .conftest import picture, tensor


def case(scale: float | None = None) -> sets.Case:
    return sets.Case("a", tensor(picture(0)), tensor(picture(1)), sets.Truth(scale=scale))


def test_a_network_through_spandrel(tmp_path: Path) -> None:
    """A small SRVGGNet (the shape of realesr-general), random weights, enlarging twice."""
    pytest.importorskip("einops")
    try:
        programs._import_spandrel()
    except UniresError:
        pytest.skip("spandrel is not installed")
    assert "torchvision" not in sys.modules or hasattr(sys.modules["torchvision"], "__version__")
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.PReLU(8)]
    for _ in range(2):
        layers += [torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.PReLU(8)]
    layers.append(torch.nn.Conv2d(8, 12, 3, padding=1))
    body = torch.nn.Sequential(*layers)
    path = tmp_path / "net.safetensors"
    save_file({f"body.{k}": v for k, v in body.state_dict().items()}, path)
    method = programs.spandrel(f"spandrel:{path}", str(path))
    answer = method.run(case())
    x = case().lq
    with torch.no_grad():
        wide = torch.nn.functional.pixel_shuffle(body(x), 2) + torch.nn.functional.interpolate(x, scale_factor=2)
    assert torch.allclose(answer.pixels, torch.nn.functional.avg_pool2d(wide.clamp(0, 1), 2), atol=1e-5)
    assert "result reduced" in answer.note
    assert "reduced first" in method.run(case(scale=2)).note
    (tmp_path / "odd.safetensors").write_bytes(b"no weights")
    with pytest.raises(UniresError, match="spandrel can't load"):
        programs.spandrel("x", str(tmp_path / "odd.safetensors"))


def test_an_onnx_file(tmp_path: Path) -> None:
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[range(3), range(3)] = 1 / 9
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "mean",
        [helper.make_tensor_value_info("x", kind, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", kind, [1, 3, "h", "w"])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    answer = programs.onnx("onnx:mean", str(path)).run(case())
    assert torch.allclose(answer.pixels, torch.nn.functional.avg_pool2d(case().lq, 3, 1, 1), atol=1e-5)
    path.write_bytes(b"nothing")
    with pytest.raises(UniresError, match="onnxruntime can't load"):
        programs.onnx("onnx:mean", str(path))


FLIP = "import sys; from PIL import Image, ImageOps; ImageOps.mirror(Image.open(sys.argv[1])).save(sys.argv[2])"


def test_a_command_line(tmp_path: Path) -> None:
    program = tmp_path / "flip it.py"
    program.write_text(FLIP)
    method = programs.command("cmd", f"{sys.executable} '{program}' {{input}} {{output}}")
    assert torch.equal(method.run(case()).pixels, case().lq.flip(-1))
    crash = programs.command("cmd", f"{sys.executable} -c 'raise SystemExit(\"out of luck\")' {{input}} {{output}}")
    with pytest.raises(UniresError, match="status 1: out of luck"):
        crash.run(case())
    with pytest.raises(UniresError, match="can't be run"):
        programs.command("cmd", "/nowhere/upscaler {input} {output}").run(case())
