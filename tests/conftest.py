"""What several folders of tests share: a photo, and networks made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The pictures are small: a second thread costs more than it brings, and results stay the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


TABLE = Path(__file__).parents[1] / "docs" / "conformance.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", action="store_true", help="write figures into docs/conformance.md")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a figure into the test's row of the conformance table, if asked by `--figures`."""
    test = request.node.nodeid.partition("[")[0]

    def tell(text: str) -> None:
        lines = TABLE.read_text().splitlines()
        (row,) = [i for i, line in enumerate(lines) if f"| `{test}` |" in line]
        lines[row] = lines[row].partition(f"| `{test}` |")[0] + f"| `{test}` | {text} |"
        if request.config.getoption("--figures"):
            TABLE.write_text("\n".join(lines) + "\n")

    return tell


def _tiny_net(seed: int = 0, **changes: Any) -> Any:
    """A small network that isn't trained but does something: what starts at zero is random."""
    import torch

    from unires.denoise.compact import GATE_UNIT, CompactConfig, CompactNet

    torch.manual_seed(seed)
    net = CompactNet(CompactConfig(**({"widths": (8, 8), "down": (1, 1), "up": (1,)} | changes)))
    own = [p for s in net.surfaces()[1:] for p in (*s.leave.parameters(), *s.leave_gates.parameters())]
    for p in (*net.leave.parameters(), *net.leave_gates.parameters(), *net.modulate.parameters(), *own):
        torch.nn.init.normal_(p, std=0.5 if p.dim() == 4 else 0.1)
    for surface in net.surfaces():
        for p in surface.leave_gates.parameters():
            p.data /= GATE_UNIT
    return net


@pytest.fixture
def tiny_net() -> Any:
    """A function (seed, **of CompactConfig) that makes a small network whose output differs from its input."""
    return _tiny_net


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of such a network."""
    import torch

    from unires.denoise.checkpoint import save_net

    folder = tmp_path_factory.mktemp("checkpoint")
    save_net(_tiny_net(), folder, torch.float32)
    return folder


@pytest.fixture
def tiny(tiny_net: Any) -> Any:
    """A denoiser of such a network, computing in float32."""
    import torch

    from unires.denoise.compact_denoiser import CompactDenoiser

    return CompactDenoiser(tiny_net(), "cpu", torch.float32)


@pytest.fixture(scope="session")
def astronaut() -> Any:
    """A natural photo, 512 x 512 x 3, uint8."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def photo(astronaut: Any) -> Any:
    """The same as 1 x 3 x 256 x 256 in [0, 1]."""
    import torch

    return torch.from_numpy(astronaut[:256, 100:356].copy()).permute(2, 0, 1)[None].float() / 255


def _text_to_image(folder: Path, seed: int = 0, schedule: dict[str, Any] | None = None, **network: Any) -> Path:
    """A text-to-image checkpoint in diffusers' folder format: tiny, random, all its parts real."""
    import json

    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    described: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "sample_size": 8,
    }
    UNet2DConditionModel(**(described | network)).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    letters = [chr(c) for c in range(33, 127)]
    words = {w: i for i, w in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    raw = folder / "tokenizer"
    raw.mkdir(parents=True)
    (raw / "vocab.json").write_text(json.dumps(words))
    (raw / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(raw, model_max_length=16).save_pretrained(raw)
    CLIPTextModel(CLIPTextConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=24,
        max_position_embeddings=16, vocab_size=len(words), bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )).save_pretrained(folder / "text_encoder")  # fmt: skip
    plain = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDPMScheduler(**(plain | (schedule or {}))).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def text_to_image() -> Any:
    """A function (folder, seed, schedule, **of the network) that writes a tiny text-to-image checkpoint."""
    return _text_to_image


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-to-image checkpoint that predicts noise."""
    return _text_to_image(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def lpips_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form of LPIPS's."""
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(1)
    tensors = {}

    def layer(name: str, before: int, after: int, side: int) -> None:
        fan = before * side**2
        tensors[f"features.{name}.weight"] = torch.randn(after, before, side, side, generator=draw) * (2 / fan) ** 0.5
        tensors[f"features.{name}.bias"] = torch.randn(after, generator=draw) * 0.1

    layer("0", 3, 64, 3)
    width = 64
    for i, (squeezed, expanded) in {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128), 9: (48, 192), 10: (48, 192),
                                    11: (64, 256), 12: (64, 256)}.items():  # fmt: skip
        layer(f"{i}.squeeze", width, squeezed, 1)
        layer(f"{i}.expand1x1", squeezed, expanded, 1)
        layer(f"{i}.expand3x3", squeezed, expanded, 3)
        width = 2 * expanded
    for i, channels in enumerate((64, 128, 256, 384, 384, 512, 512)):
        tensors[f"lin{i}.weight"] = torch.rand(1, channels, 1, 1, generator=draw)
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(tensors, path)
    return path
