"""Converting a text-to-image checkpoint: nothing changes but what is meant to, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unires.denoise import convert as convert_module
from unires.denoise.checkpoint import load_denoiser, load_latent
from unires.denoise.convert import convert, find
from unires.denoise.latent import PROMPTS, LatentDenoiser
from unires.errors import UniresError


@pytest.fixture
def base(tmp_path: Path, base_folder: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(base_folder, tmp_path / "base")
    return tmp_path / "base"


def described(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}))


def test_converting_changes_no_output(base_folder: Path, tmp_path: Path) -> None:
    """The converted network says what the original says, whatever the condition, as its new half is zero."""
    import diffusers
    import transformers

    convert(str(base_folder), tmp_path / "out")
    net = load_latent(tmp_path / "out")
    unet = diffusers.UNet2DConditionModel.from_pretrained(base_folder, subfolder="unet")
    encoder = transformers.CLIPTextModel.from_pretrained(base_folder, subfolder="text_encoder")
    words = transformers.CLIPTokenizer.from_pretrained(base_folder, subfolder="tokenizer")
    ids = words([PROMPTS["denoise"]], padding="max_length", max_length=16, return_tensors="pt").input_ids
    torch.manual_seed(0)
    z, c, level = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), 500
    with torch.no_grad():
        plain = unet(z, level, encoder_hidden_states=encoder(ids)[0].expand(2, -1, -1)).sample
        task = torch.tensor([net.config.tasks.index("denoise")])
        ours = net.out(z, net.times[level : level + 1], c, task)
    assert float((ours - plain).abs().max()) < 1e-5 < float(plain.std())
    assert net.unet.conv_in.weight.shape[1] == 8 and not net.unet.conv_in.weight[:, 4:].any()


def test_the_levels_are_the_checkpoint_s_own(base_folder: Path, tmp_path: Path) -> None:
    import diffusers

    from unires.denoise.schedule import alpha_sigma

    convert(str(base_folder), tmp_path / "out")
    net = load_latent(tmp_path / "out")
    theirs = diffusers.DDPMScheduler.from_pretrained(base_folder, subfolder="scheduler").alphas_cumprod
    alpha, sigma = alpha_sigma(net.times)
    torch.testing.assert_close(alpha**2, theirs, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(sigma**2, 1 - theirs, atol=1e-6, rtol=1e-4)
    n, t = net.place(net.times)
    torch.testing.assert_close(n, torch.arange(1000.0), atol=0.01, rtol=0)
    torch.testing.assert_close(t, net.times)
    n, t = net.place(torch.tensor([1.0, 0.0]))  # beyond both ends, the last level and the first stand in
    assert n.tolist() == [999, 0] and t.tolist() == [float(net.times[-1]), float(net.times[0])]


def test_prompts_are_embedded_once(base_folder: Path, tmp_path: Path) -> None:
    """No text encoder is left, and the embeddings differ from task to task."""
    convert(str(base_folder), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    denoiser = load_denoiser(tmp_path / "out", kind=torch.float32)
    assert isinstance(denoiser, LatentDenoiser) and denoiser.facts.tasks == tuple(PROMPTS)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    said = {task: denoiser.predict(z, 0.5, None, [task]) for task in PROMPTS}
    for task in PROMPTS:
        assert all(not torch.equal(said[task], said[other]) for other in PROMPTS if other != task), task


def test_half_precision_stays_half(base_folder: Path, tmp_path: Path) -> None:
    """As checkpoints are often handed out: *.fp16.safetensors, and nothing else."""
    import diffusers
    import transformers

    folder = tmp_path / "half"
    shutil.copytree(base_folder, folder)
    for kind, part in (
        (diffusers.UNet2DConditionModel, "unet"),
        (diffusers.AutoencoderKL, "vae"),
        (transformers.CLIPTextModel, "text_encoder"),
    ):
        whole = kind.from_pretrained(base_folder, subfolder=part).half()
        for old in (folder / part).glob("*.safetensors"):
            old.unlink()
        whole.save_pretrained(folder / part, variant="fp16")
    convert(str(folder), tmp_path / "out")
    net = load_latent(tmp_path / "out")
    assert {p.dtype for p in net.parameters()} == {torch.float16} and net.times.dtype == torch.float32
    exact = convert_module.read_base(base_folder)
    torch.testing.assert_close(net.unet.conv_in.weight.float(), exact.unet.conv_in.weight, atol=1e-3, rtol=1e-3)


def pickled(folder: Path, part: str) -> None:
    for path in (folder / part).glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


def less(part: Path) -> None:
    """Without one of its tensors: the library would fill it with random numbers."""
    (path,) = part.glob("*.safetensors")
    tensors = load_file(path)
    del tensors[next(k for k in sorted(tensors) if "mlp.fc1.weight" in k)]
    save_file(tensors, path, {"format": "pt"})


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no network": (lambda f: shutil.rmtree(f / "unet"), "no unet/config.json"),
    "no autoencoder": (lambda f: shutil.rmtree(f / "vae"), "no vae/config.json"),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "no text_encoder/config.json"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "no tokenizer/tokenizer_config.json"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "no scheduler/scheduler_config.json"),
    "no weights": (lambda f: [p.unlink() for p in (f / "unet").glob("*.safetensors")], "no weights in unet"),
    "pickled network": (lambda f: pickled(f, "unet"), "is a pickle.*safe_serialization=True"),
    "pickled autoencoder": (lambda f: pickled(f, "vae"), "is a pickle.*safe_serialization=True"),
    "cut weights": (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"\x08"), "vae .*damaged"),
    "lost weights": (lambda f: less(f / "text_encoder"), "text_encoder .*damaged"),
    "inpainting": (lambda f: described(f / "unet/config.json", in_channels=9), "unet .*damaged|9 channels"),
    "no JSON": (lambda f: (f / "scheduler/scheduler_config.json").write_text("{"), "schedule .*damaged"),
    "no levels": (
        lambda f: described(f / "scheduler/scheduler_config.json", num_train_timesteps=None), "schedule .*damaged"),
    "unknown prediction": (
        lambda f: described(f / "scheduler/scheduler_config.json", prediction_type="v_predictoin"),
        "Unknown prediction type 'v_predictoin'; did you mean 'v_prediction'"),
    "noise at no signal": (
        lambda f: described(f / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True), "zero signal"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_bad_base_is_refused_in_one_sentence(base: Path, tmp_path: Path, what: str) -> None:
    damage, said = DAMAGE[what]
    damage(base)
    with pytest.raises(UniresError) as refused:
        convert(str(base), tmp_path / "out")
    text = str(refused.value)
    assert re.search(said, text), text
    assert "\n" not in text and text.endswith((".", "?"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"in_channels": 9}, "takes 9 channels, but its autoencoder has 4"),
        ({"out_channels": 8}, "gives 8 channels, but its autoencoder has 4"),
        ({"cross_attention_dim": 32}, "gives vectors of 24 numbers, but the network takes 32"),
    ],
)
def test_a_wrong_width_is_refused(text_to_image: Any, tmp_path: Path, network: dict[str, int], said: str) -> None:
    with pytest.raises(UniresError, match=said):
        convert(str(text_to_image(tmp_path / "base", **network)), tmp_path / "out")


def test_what_is_no_folder(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.ckpt").write_bytes(b"")
    with pytest.raises(UniresError, match="from_single_file"):
        find(str(tmp_path / "one.ckpt"))
    with pytest.raises(UniresError, match="no folder"):
        find(str(tmp_path / "nothing here"))
    asked: list[str] = []

    class Hub:
        """Stands in for the network: the copy that the library would make."""

        @staticmethod
        def snapshot_download(name: str, **options: Any) -> str:
            asked.append(name)
            assert not any(pattern.endswith((".bin", ".ckpt", "*")) for pattern in options["allow_patterns"])
            return str(base_folder)

    monkeypatch.setattr(convert_module, "library", lambda name: Hub)
    assert find("someone/tiny") == base_folder and asked == ["someone/tiny"]


def test_what_is_there_is_not_written_over(base_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UniresError, match="there already"):
        convert(str(base_folder), tmp_path / "out")


def test_without_the_libraries(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UniresError, match=r"pip install 'unires\[latent\]'"):
        convert_module.read_base(base_folder)
