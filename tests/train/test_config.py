"""The configuration: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from unires.denoise.compact import CompactConfig
from unires.errors import UniresError
from unires.train.config import RouterTraining, TrainConfig

TEXT = """
clean = ["photos", "/elsewhere"]
validation = ["../val"]
paired = { denoise = ["pairs"] }
run = "runs/x"
rate = 1
minutes = 10
[tasks]
denoise = 0.5
dejpeg = 1
[model]
widths = [8, 16]
down = [1, 2]
up = [1]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    return path


def test_reading(file: Path, tmp_path: Path) -> None:
    config = TrainConfig.read(file)
    assert config.clean == (str(tmp_path / "photos"), "/elsewhere")
    assert config.validation == (str(tmp_path / "../val"),)
    assert config.paired == {"denoise": (str(tmp_path / "pairs"),)}
    assert config.run == "runs/x"  # from where training is started
    assert config.tasks == {"denoise": 0.5, "dejpeg": 1}
    assert config.model == CompactConfig(widths=(8, 16), down=(1, 2), up=(1,))
    assert config.batch == TrainConfig().batch


def test_changes_win_and_leave_the_rest(file: Path) -> None:
    config = TrainConfig.read(file, ["rate=0.5", 'run="runs/y"', "model.embedding=24", "tasks.denoise=2"])
    assert (config.rate, config.run, config.minutes) == (0.5, "runs/y", 10)
    assert config.model == CompactConfig(widths=(8, 16), down=(1, 2), up=(1,), embedding=24)
    assert config.tasks == {"denoise": 2, "dejpeg": 1}


def test_the_repositorys_own_configurations_are_read() -> None:
    folder = Path(__file__).parents[2] / "configs"
    TrainConfig.read(folder / "compact.toml")
    RouterTraining.read(folder / "router.toml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("bach=3", "Unknown option 'bach'; did you mean 'batch'?"),
        ("model.width=[8]", "did you mean 'model.widths'?"),
        ("model.depth=3", "Unknown option 'model.depth'"),
        ('optimizer="sgd"', "Unknown optimizer 'sgd'"),
        ('optimizer="adam"', "did you mean 'adamw'?"),
        ('device="gpu"', "Unknown device 'gpu'"),
        ('batch="many"', "The option batch is a whole number"),
        ("batch=1.5", "The option batch is a whole number"),
        ("batch=true", "The option batch is a whole number"),
        ("batch=0", "more than 0"),
        ("crop=-8", "more than 0"),
        ('clean="photos"', "The option clean is a list"),
        ("clean=[1]", "The option clean is a list"),
        ("paired=3", "The option paired is a table"),
        ("paired.denoise=3", "The option paired is a table"),
        ("tasks=[]", "The option tasks is a table"),
        ("tasks.denoise=-1", "odds of more than 0"),
        ("model=3", "The option model is a table"),
        ('model.widths="wide"', "The option model.widths is a list of numbers"),
        ("model.up=[1, 1]", "one fewer in `up`"),
        ("surfaces_only=true", "`model.own`"),
        ('model.own=["denois"]', "`own`"),
        ("run=runs/x", "is no option"),
        ("minutes", "is no option"),
    ],
)
def test_refusals(file: Path, change: str, said: str) -> None:
    with pytest.raises(UniresError) as refused:
        TrainConfig.read(file, [change])
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"bach = 3", b"[model]\nwide = 1"])
def test_an_unknown_option_in_the_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UniresError, match="Unknown option"):
        TrainConfig.read(file)


@pytest.mark.parametrize("content", [b"batch = ", b"\xff\xfe", b"[[["])
def test_a_file_that_is_no_configuration(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UniresError, match="can't be read"):
        TrainConfig.read(file)
    with pytest.raises(UniresError, match="can't be read"):
        TrainConfig.read(file.with_name("missing.toml"))


@pytest.mark.parametrize(("changes", "said"), [
    (["crop=100"], "multiple of 16"), (["crop=96", "margin=4", "relay_share=0.5"], "2 margin with relay_share"),
])  # fmt: skip
def test_crops_that_the_network_cannot_take(changes: list[str], said: str) -> None:
    with pytest.raises(UniresError, match=said):
        TrainConfig.read(Path(__file__).parents[2] / "configs" / "compact.toml", changes)


@pytest.mark.parametrize(("change", "said"), [
    ('device="gpu"', "Unknown device"), ("samples=1", "samples must be at least 2"), ("rate=-1", "rate"),
    ("crop=0", "crop"), ("sample=2", "did you mean 'samples'"),
    ("rounds=0", "start_from"), ("second_views=0", "second_views"),
])  # fmt: skip
def test_what_a_router_is_not_trained_with(change: str, said: str) -> None:
    with pytest.raises(UniresError, match=said):
        RouterTraining.read(Path(__file__).parents[2] / "configs" / "router.toml", [change])
