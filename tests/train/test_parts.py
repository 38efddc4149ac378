"""What training is made of: crops, objective, optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unires.denoise.compact import TASKS, CompactConfig, CompactNet
from unires.errors import UniresError
from unires.train import objective
from unires.train.data import Atlas, load_rgb, photo_paths
from unires.train.optim import Muon, orthogonalise

CPU = torch.device("cpu")


# -- data -------------------------------------------------------------------------------------------------------------


def numbered(height: int, width: int, blue: int) -> np.ndarray[Any, Any]:
    """Each pixel says where it is: red the row, green the column, blue the photo."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((y, x, np.full_like(y, blue)), axis=-1).astype(np.uint8)


def test_crops_are_squares_of_photos_in_all_eight_turns(tmp_path: Path) -> None:
    for i, (height, width) in enumerate(((40, 90), (64, 33), (20, 200))):
        Image.fromarray(numbered(height, width, i)).save(tmp_path / f"{i}.png")
    atlas = Atlas.load(photo_paths(tmp_path), 24, CPU)
    assert len(atlas) == 2  # the third is too low
    crops = (atlas.crops(atlas.places(4000, 24, torch.Generator().manual_seed(0))) * 255).round().long()
    assert crops.shape == (4000, 3, 24, 24)
    photo = crops[:, 2, 0, 0]
    assert (crops[:, 2] == photo[:, None, None]).all()  # never of two photos
    share = float((photo == 0).float().mean())
    assert share == pytest.approx(40 * 90 / (40 * 90 + 64 * 33), abs=0.03)  # in proportion to area
    kinds = set()
    for crop in crops[:400]:
        dy, dx = (crop[:2, 1, 0] - crop[:2, 0, 0]).tolist(), (crop[:2, 0, 1] - crop[:2, 0, 0]).tolist()
        assert sorted(map(abs, dy)) == sorted(map(abs, dx)) == [0, 1] and abs(dy[0]) != abs(dx[0])
        rows, columns = crop[0].unique(), crop[1].unique()
        assert len(rows) == len(columns) == 24
        kinds.add((*dy, *dx))
    assert len(kinds) == 8
    top = crops[photo == 0][:, 0].amin(dim=(1, 2))
    assert int(top.min()) == 0 and int(top.max()) == 40 - 24  # to the very edges


def test_reading_photos(tmp_path: Path) -> None:
    with pytest.raises(UniresError, match="no photo in"):
        photo_paths(tmp_path)
    (tmp_path / "sub").mkdir()
    Image.new("L", (30, 30), 7).save(tmp_path / "sub" / "grey.PNG")
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in photo_paths(tmp_path)] == ["grey.PNG"]
    assert load_rgb(tmp_path / "sub" / "grey.PNG").shape == (30, 30, 3)
    with pytest.raises(UniresError, match="at least 64 pixels"):
        Atlas.load(photo_paths(tmp_path), 64, CPU)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(UniresError, match="can't be read as a photo"):
        load_rgb(tmp_path / "broken.jpg")


def test_a_picture_that_would_burst_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UniresError, match="can't be read as a photo"):
        load_rgb(tmp_path / "large.png")


# -- objective --------------------------------------------------------------------------------------------------------


class Recorder(torch.nn.Module):
    """In the network's place: keeps what it is given, and answers with a given mistake."""

    def __init__(self, mistake: float) -> None:
        super().__init__()
        self.inner = CompactNet(CompactConfig(widths=(8, 8), down=(1, 1), up=(1,)))
        self.mistake, self.seen = mistake, ()
        self.clean = torch.zeros(())

    def total_precision(self, *a: torch.Tensor) -> torch.Tensor:
        return self.inner.total_precision(*a)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.seen = inputs
        return self.clean + self.mistake


def run(count: int = 4000, mistake: float = 0.1, **options: float) -> tuple[Recorder, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    net = Recorder(mistake)
    net.clean = torch.rand(count, 3, 2, 2, generator=g) * 2 - 1
    degraded = torch.rand(count, 3, 2, 2, generator=g) * 2 - 1
    task = torch.randint(1, len(TASKS), (count,), generator=g)
    severity = torch.rand(count, generator=g)
    plain = objective.Uncertainty()
    torch.nn.init.zeros_(plain.outer.bias)  # expects a loss of one everywhere
    angle = torch.rand(count, generator=g)
    data = net.clean, degraded, task, severity, angle
    value, error = objective.loss(net, plain, *data, g, **options)  # type: ignore[arg-type]
    net.degraded, net.task, net.severity, net.angle = degraded, task, severity, angle  # type: ignore[assignment]
    return net, value, error


def test_what_the_network_is_shown() -> None:
    net, _, _ = run()
    z, t, condition, told, hint, seen, angle = net.seen
    first = t == 1
    assert float(first.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(t[~first].min()) >= 0.01 and float(t[~first].max()) < 1
    assert float(t[~first].mean()) == pytest.approx(0.505, abs=0.02)
    assert float((told == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert (told[told != 0] == net.task[told != 0]).all()
    assert float((hint[told != 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (hint[told == 0] < 0).all()  # as at test time
    assert torch.equal(hint[hint >= 0], net.severity[hint >= 0])
    assert float(angle.isnan().float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(angle[~angle.isnan()], net.angle[~angle.isnan()])
    assert seen[first].all()  # at t = 1 there is nothing else to go by
    assert float((~seen[~first]).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert (condition[~seen] == 0).all() and torch.equal(condition[seen], net.degraded[seen])
    alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
    eps = (z - alpha.view(-1, 1, 1, 1) * net.clean) / sigma.view(-1, 1, 1, 1)
    late = t > 0.2
    assert float(eps[late].mean()) == pytest.approx(0, abs=0.02)
    assert float(eps[late].std()) == pytest.approx(1, abs=0.02)


def test_the_loss_is_the_precision_weighted_error() -> None:
    net, value, error = run(mistake=0.1)
    torch.testing.assert_close(error, torch.full_like(error, 0.01), atol=1e-5, rtol=1e-3)
    _, t, _, told, _, seen, _ = net.seen
    expected = (net.total_precision(t, told, seen) * 0.01).mean()
    torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)


def test_dividing_by_the_expected_loss_is_fair() -> None:
    """exp(-u) loss + u is least where u is the log of the loss."""
    u = torch.linspace(-6, 2, 801)
    for size in (0.01, 0.3, 2.0):
        best = u[(size * torch.exp(-u) + u).argmin()]
        assert float(best) == pytest.approx(float(np.log(size)), abs=0.02)
    constant = objective.Uncertainty()  # starts by expecting exp(-1)
    one = torch.ones(3)
    assert torch.allclose(constant(one, one.long(), one, one.bool(), one), torch.full((3,), -1.0))


# -- optimizer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (1, 9)])
def test_orthogonalise(shape: tuple[int, int]) -> None:
    """Singular values near one (the quintic iteration swings between 0.7 and 1.2), the same singular vectors."""
    g = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    g *= torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1)
    out = orthogonalise(g)
    assert out.shape == g.shape
    values = torch.linalg.svdvals(out)
    largest = torch.linalg.svdvals(g)
    clear = largest > 0.05 * largest[:, :1]  # what is nearly zero takes more than five iterations
    assert float(values[clear].min()) > 0.6 and float(values[clear].max()) < 1.25
    for a, b in zip(g, out, strict=True):
        u, _, v = torch.linalg.svd(a, full_matrices=False)
        core = u.T @ b @ v.T
        assert float((core - torch.diag(core.diagonal())).abs().max()) < 0.02


def test_orthogonalising_nothing_gives_nothing() -> None:
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 9)), torch.zeros(1, 4, 9))


def test_a_step_of_muon() -> None:
    """All of one size at once give what each gives alone; the size of an update is AdamW's."""
    g = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1)]
    start = [torch.randn(s, generator=g) for s in shapes]
    gradients = [torch.randn(s, generator=g) for s in shapes]

    def stepped(indices: list[int]) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(start[i].clone()) for i in indices]
        optimizer = Muon(parameters, lr=0.1)
        for _ in range(3):
            for p, i in zip(parameters, indices, strict=True):
                p.grad = gradients[i].clone()
            optimizer.step()
        return [p.detach() for p in parameters]

    together = stepped([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(together[i], stepped([i])[0], atol=1e-6, rtol=1e-5)
        change = (together[i] - start[i]) / 3
        assert float(change.square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.25)


def test_muon_leaves_alone_what_has_no_gradient() -> None:
    p = torch.nn.Parameter(torch.ones(4, 4, 3, 3))
    Muon([p], lr=0.1).step()
    assert torch.equal(p.detach(), torch.ones(4, 4, 3, 3))
