"""Training the router: first to report what is wrong with a photo, then to weigh frozen experts.

As a step is linear in its weights and these sum to one, its squared error on a patch is w G w, with G the K x K matrix
of the mean products of the experts' errors (`unires.bench.oracle` finds a photo's best w from the same matrix). So
the experts run once for each sample; after that the gradient through the sampler is exact and costs next to nothing,
step by step: the second step's experts see (as relay) what the trained first step makes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.experts import KEEP, Expert
from unires.compose.router import HARM_UNIT, LEAST, SURE, Router, RouterConfig
from unires.degrade import mixtures
from unires.degrade.isolated import TASKS
from unires.denoise.checkpoint import load_denoiser
from unires.denoise.interface import Denoiser
from unires.errors import UniresError
from unires.sample.sampler import levels, times
from unires.train.config import build, read_values
from unires.train.data import Atlas, photo_paths

Log = Callable[[str], None]
FIRST = ("blind", *TASKS, KEEP)
SECOND = ("keep@relay", *(f"{task}@relay" for task in ("blind", *TASKS)), KEEP)
STEPS = (FIRST, SECOND)
VISIBLE = 1e-5  # squared error (50 dB) below which getting closer is worth little


@dataclass(frozen=True)
class RouterTraining:
    """How to train a router. Folders are relative to the configuration file, `model` and `run` to where training is
    started; `model` "" is the shipped one."""

    clean: tuple[str, ...] = ()
    model: str = ""
    run: str = "runs/router"
    start_from: str = ""  # a folder with a router, whose report is gone on with
    crop: int = 192
    margin: int = 16
    region_share: float = 0.25  # of the samples, of which a part stays clean
    batch: int = 32
    report_minutes: float = 10.0
    rate: float = 2e-3
    samples: int = 2400  # that the experts are run on
    rounds: int = 4000  # of the weighing, 64 samples each
    charge: float = 0.01  # what a network pass costs, in units of the log error
    seed: int = 0
    device: str = "cpu"
    threads: int = 0

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> RouterTraining:
        """From a TOML file; raises UniresError naming an unknown option."""
        config: RouterTraining = build(cls, read_values(path, changes), "")
        base = Path(path).parent
        return dataclasses.replace(config, clean=tuple(str(base / folder) for folder in config.clean))


@dataclass
class Sample:
    """One crop, its restorations so far, and the errors' products by cell, step by step."""

    clean: Tensor  # 3 x H x W
    degraded: Tensor
    features: Tensor
    known: tuple[Tensor, Tensor, Tensor]
    told: dict[str, float]
    answers: Tensor  # K x 3 x H x W, of the step last run
    grams: list[Tensor]  # a step: h x w x K x K


class RouterTrainer:
    """`RouterTrainer(config).run()` leaves `router.safetensors` in the folder `config.run`."""

    def __init__(self, config: RouterTraining, log: Log = print) -> None:
        self.config, self.log = config, log
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        shape = RouterConfig(tasks=TASKS, steps=STEPS)
        started = Router.load(Path(config.start_from)) if config.start_from else None
        if config.start_from and (started is None or started.config != shape):
            raise UniresError(f"There is no router of this shape in {config.start_from}.")
        self.router = (started or Router(shape)).to(self.device).requires_grad_(True)
        self.router.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser: Denoiser = load_denoiser(Path(config.model) if config.model else None, config.device)
        paths = [p for folder in config.clean for p in photo_paths(Path(folder))]
        if not paths:
            raise UniresError("The configuration names no folder of clean photos.")
        self.photos = Atlas.load(paths, config.crop + 2 * config.margin, self.device)

    def run(self) -> None:
        if self.config.report_minutes:
            self.learn_report()
            self.save()
        self.router.requires_grad_(False)
        samples = self.collect()
        for step in range(len(STEPS)):
            self.ask(samples, step)
            self.learn_weights(samples, step)
            self.save()

    def save(self) -> None:
        folder = Path(self.config.run)
        folder.mkdir(parents=True, exist_ok=True)
        self.router.save(folder)

    def draw(self, index: int, count: int) -> tuple[Tensor, mixtures.Mixture, Tensor]:
        """Clean crops, what became of them, and where: B x 1 x H x W, one where degraded. In a part of them a region
        stays clean. The window is cut after degrading, so that borders are real."""
        c = self.config
        seed = (c.seed * 1_000_003 + index) * 4099
        host = torch.Generator().manual_seed(seed)
        device = torch.Generator(self.device).manual_seed(seed + 1) if self.device.type != "cpu" else host
        clean = self.photos.crops(self.photos.places(count, c.crop + 2 * c.margin, host))
        mixture = mixtures.draw(clean, host, device)
        top, left = torch.randint(0, 2 * c.margin + 1, (2,), generator=host).tolist()
        window = (..., slice(top, top + c.crop), slice(left, left + c.crop))
        where = _regions(count, c.crop, c.region_share, host).to(self.device)
        degraded = torch.where(where, mixture.degraded[window], clean[window])
        return clean[window], dataclasses.replace(mixture, degraded=degraded), where.float()

    # -- what is wrong with the photo -----------------------------------------------------------------------

    def learn_report(self) -> None:
        """Presence by cross-entropy, severity and harm by squared error where the degradation is there."""
        c = self.config
        r = self.router
        parameters = [p for m in (r.enter, r.levels, r.reduce, r.report) for p in m.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=c.rate, betas=(0.9, 0.99), weight_decay=1e-3)
        started, step, seen = time.monotonic(), 0, []
        while (done := (time.monotonic() - started) / (60 * c.report_minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = c.rate * min(1, (step + 1) / 50) * min(1.0, 2 * (1 - done))
            _, mixture, where = self.draw(step, c.batch)
            with torch.autocast(self.device.type, torch.bfloat16):
                features = r.features(mixture.degraded).float()
            there = (mixture.severity >= 0).to(self.device)
            loss, right = _report_loss(r, features, mixture, there, where)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            seen.append((float(loss.detach()), right))
            step += 1
            if step % 50 == 0:
                recent = torch.tensor(seen[-50:]).mean(dim=0).tolist()
                self.log(f"report {step}  loss {recent[0]:.3f}  presence right {recent[1]:.1%}  done {done:.0%}")

    # -- the experts' answers -------------------------------------------------------------------------------

    def collect(self) -> list[Sample]:
        """Samples with the router's own judgement of them, as experts are told at test time."""
        samples = []
        with torch.inference_mode():
            for index in range(0, self.config.samples, 8):
                clean, mixture, _ = self.draw(10_000_000 + index, 8)
                features = self.router.features(mixture.degraded)
                presence, severity, harm, _ = self.router.judge(features)
                for i in range(len(clean)):
                    told = {
                        task: float(severity[i, k].clamp(0, 1))
                        for k, task in enumerate(TASKS) if float(presence[i, k].sigmoid()) >= SURE
                    }  # fmt: skip
                    known = presence[i], severity[i], harm[i]
                    samples.append(Sample(clean[i], mixture.degraded[i], features[i], known, told, torch.empty(0), []))
        return samples

    def ask(self, samples: list[Sample], step: int) -> None:
        """Run the step's experts on every sample, and keep the products of their errors."""
        experts = [Expert.parse(name, self.denoiser.facts.tasks) for name in STEPS[step]]
        t = times(len(STEPS))[step]
        alpha, sigma = levels(t)
        size, started = self.config.crop, time.monotonic()
        for number, sample in enumerate(samples):
            lq = sample.degraded[None]
            relay = lq if step == 0 else self._estimate(sample, step - 1)
            noise = torch.randn(lq.shape, generator=torch.Generator().manual_seed(number)).to(lq)
            z = alpha * self.denoiser.encode(relay) + sigma * noise if alpha else torch.zeros_like(lq)
            asked = [e for e in experts if e.task != KEEP]
            seen = torch.cat([self.denoiser.encode(relay if e.condition == "relay" else lq) for e in asked])
            out = self.denoiser.predict(
                z.expand(len(asked), -1, -1, -1), t, seen, [e.task for e in asked],
                [sample.told.get(e.task) for e in asked],
            )
            answered = iter(self.denoiser.decode(out))
            same = {"relay": relay[0], "lq": lq[0]}
            answers = torch.stack([same[e.condition] if e.task == KEEP else next(answered) for e in experts])
            sample.answers = answers.half()
            sample.grams.append(_grams(answers - sample.clean, self.router.config.cell, size))
            if number % 200 == 199:
                pace = (number + 1) / (time.monotonic() - started)
                self.log(f"step {step + 1}: experts asked about {number + 1} samples, {pace:.1f} a second")

    def _estimate(self, sample: Sample, step: int) -> Tensor:
        """What the trained router makes of a sample in a step, from the answers at hand: 1 x 3 x H x W."""
        with torch.inference_mode():
            row = self._rows([sample], step)[0]
            row = row * (row.abs().amax(dim=(1, 2), keepdim=True) >= LEAST)
            row = row + (1 - row.sum(dim=0)) * (row != 0) / (row != 0).sum(dim=0).clamp(min=1)
            maps = F.interpolate(row[:, None], size=sample.degraded.shape[-2:], mode="bilinear", align_corners=False)
            return (maps * sample.answers.float()).sum(dim=0)[None]

    # -- the weights ----------------------------------------------------------------------------------------

    def _rows(self, samples: list[Sample], step: int) -> Tensor:
        known = tuple(torch.stack([s.known[j] for s in samples]) for j in range(3))
        features = torch.stack([s.features for s in samples])
        return self.router.decide(features, (known[0], known[1], known[2]))[step]

    def learn_weights(self, samples: list[Sample], step: int) -> None:
        """Least log squared error of the composed estimate, plus a charge for each expert that has to run."""
        c = self.config
        weigh = self.router.weigh[step].requires_grad_(True)
        held = max(1, len(samples) // 10)  # the last tenth only tells how well it generalises
        train, test = samples[:-held], samples[-held:]
        networks = torch.tensor([not name.startswith(KEEP) for name in STEPS[step]], device=self.device)
        optimizer = torch.optim.AdamW(weigh.parameters(), lr=1e-3, weight_decay=1e-2)
        generator = torch.Generator().manual_seed(c.seed)
        for round_ in range(c.rounds):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, 1.5 * (1 - round_ / c.rounds))
            chosen = torch.randint(len(train), (min(64, len(train)),), generator=generator).tolist()
            loss, _, _ = self._weighing([train[i] for i in chosen], step, networks)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            if round_ % 500 == 499 or round_ + 1 == c.rounds:
                with torch.inference_mode():
                    _, gain, used = self._weighing(test, step, networks)
                self.log(f"step {step + 1}, round {round_ + 1}: {gain:.3f} dB on held-out samples, {used:.2f} passes")
        weigh.requires_grad_(False)

    def _weighing(self, samples: list[Sample], step: int, networks: Tensor) -> tuple[Tensor, float, float]:
        """(loss, mean PSNR in dB, mean passes)."""
        rows = self._rows(samples, step)
        grams = torch.stack([s.grams[step] for s in samples])
        error = torch.einsum("bkyx,byxkl,blyx->byx", rows, grams, rows).mean(dim=(1, 2))
        size = rows[:, networks].square().mean(dim=(2, 3))
        loss = (error + VISIBLE).log().mean() + self.config.charge * (size + 1e-4).sqrt().sum(dim=1).mean()
        used = (rows[:, networks].abs().amax(dim=(2, 3)) >= LEAST).float().sum(dim=1).mean()
        return loss, float((-10 * error.detach().clamp(min=1e-9).log10()).mean()), float(used)


def _regions(count: int, size: int, share: float, host: torch.Generator) -> Tensor:
    """B x 1 x size x size, true where degraded: everywhere, or for a share of the pictures on one side of a line."""
    angle, distance, partly = torch.rand(3, count, 1, 1, generator=host)
    ramp = torch.linspace(-1, 1, size)
    along = torch.cos(angle * 2 * math.pi) * ramp[:, None] + torch.sin(angle * 2 * math.pi) * ramp
    degraded: Tensor = (along < distance - 0.3) | (partly >= share)
    return degraded[:, None]


def _report_loss(
    router: Router, features: Tensor, mixture: mixtures.Mixture, there: Tensor, region: Tensor
) -> tuple[Tensor, float]:
    presence, severity, harm, where = router.judge(features)
    target = there.float()
    everywhere = target[:, :, None, None] * F.adaptive_avg_pool2d(region, (where.shape[-2], where.shape[-1]))
    cross = F.binary_cross_entropy_with_logits
    true = mixture.severity.to(severity), mixture.harm.to(harm) / HARM_UNIT
    count = target.sum().clamp(min=1)
    strength = ((severity - true[0]) ** 2 * target).sum() / count
    change = ((harm - true[1]) ** 2 * target).sum() / count
    loss = cross(presence, target) + 0.2 * cross(where, everywhere) + 10 * strength + 0.5 * change
    return loss, float(((presence > 0) == there).float().mean())


def _grams(errors: Tensor, cell: int, size: int) -> Tensor:
    """K x 3 x H x W to h x w x K x K: mean products by cell."""
    k, n = errors.shape[0], size // cell
    parts = errors.reshape(k, 3, n, cell, n, cell).permute(2, 4, 0, 1, 3, 5).reshape(n, n, k, -1)
    return parts @ parts.mT / parts.shape[-1]
