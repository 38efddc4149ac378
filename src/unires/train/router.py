"""Training the router: first to report what is wrong with a photo, then to weigh frozen experts.

As a step is linear in its weights and these sum to one, its squared error on a patch is w G w, with G the K x K matrix
of the mean products of the experts' errors (`unires.bench.oracle` finds a photo's best w from the same matrix). So
the experts run once for each sample; after that the gradient through the sampler is exact and costs next to nothing,
step by step: the second step's experts see (as relay) what the trained first step makes.

What is best after one step is not what a second step makes the most of: that deblurs a photo well which was denoised
first, and not one that was half deblurred. So there are two plans, one step with all experts, and one that cleans
before the others; last, the router learns which of them to choose."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unires.compose.experts import KEEP, Expert
from unires.compose.router import HARM_UNIT, LEAST, Router, RouterConfig
from unires.compose.spectrum import CELL, spectra
from unires.degrade import mixtures
from unires.degrade.isolated import TASKS
from unires.degrade.recipe import Recipe
from unires.denoise.checkpoint import load_denoiser
from unires.denoise.interface import Denoiser, Hint
from unires.errors import UniresError, shown
from unires.train.config import build, read_values
from unires.train.data import Atlas, photo_paths

Log = Callable[[str], None]
ALL = ("blind", *TASKS, KEEP)
CLEAN = (KEEP, "denoise", "dejpeg")
THEN = ("keep@relay", *(f"{task}@relay" for task in ("blind", *TASKS)), KEEP)
PLANS = ((ALL,), (CLEAN, THEN))
VISIBLE = 1e-5  # squared error (50 dB) below which getting closer is worth little


@dataclass(frozen=True)
class RouterTraining:
    """How to train a router. Folders are relative to the configuration file, `model` and `run` to where training is
    started; `model` "" is the shipped one."""

    clean: tuple[str, ...] = ()
    model: str = ""
    run: str = "runs/router"
    start_from: str = ""  # a folder with a router: its report is kept, only the weights, which go with experts, are new
    add: str = ""  # an expert that was added to `model`: that router is kept whole, and only the expert's column is new
    degradation: str = ""  # what that expert is for (`unires.degrade.recipe`); half of the samples suffer it first
    crop: int = 256  # that the report is learnt from
    seen: int = 352  # pixels a side that the router sees of a sample when weights are learnt,
    asked: int = 160  # and of its centre, that experts run on
    margin: int = 16
    region_share: float = 0.25  # of the samples, of which a part stays clean
    report_samples: int = 14000  # that the report is learnt from
    samples: int = 1600  # that the experts are run on
    report_rounds: int = 6000  # of 64 samples each
    rounds: int = 3000  # likewise, of each step's weights
    rate: float = 2e-3
    charge: float = 0.015  # what a network pass costs, in units of the log error: 0.065 dB
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
    """One crop, the restorations of its centre so far, and there the errors' products by cell, step by step."""

    clean: Tensor  # 3 x H x W, of the centre that experts are asked about
    degraded: Tensor
    plane: Tensor  # mean log power of the whole crop
    spectra: Tensor  # FEATURES x h x w of the whole crop, float16
    severity: Tensor  # 5, as `mixtures.Mixture` has them
    harm: Tensor
    where: Tensor  # 1 x h x w, the share of each cell that is degraded
    known: Tensor = field(default_factory=lambda: torch.empty(0))  # as `Router.known` has it
    told: dict[str, Hint] = field(default_factory=dict)
    asked: Tensor = field(default_factory=lambda: torch.empty(0))  # K x 3 x H x W, of the first plan's first step
    answers: Tensor = field(default_factory=lambda: torch.empty(0))  # likewise, of the step last run
    grams: list[Tensor] = field(default_factory=list)  # a plan's step: h x w x K x K


class RouterTrainer:
    """`RouterTrainer(config).run()` leaves `router.safetensors` in the folder `config.run`."""

    def __init__(self, config: RouterTraining, log: Log = print) -> None:
        self.config, self.log = config, log
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.denoiser: Denoiser = load_denoiser(Path(config.model) if config.model else None, config.device)
        self.edge = (config.seen - config.asked) // 2  # around what experts are asked about
        if config.crop % CELL or config.asked % CELL or self.edge % CELL or self.edge < 0:
            raise UniresError(f"Crops for a router, and their centres, are of whole cells of {CELL} pixels.")
        self.router = Router(RouterConfig(TASKS, PLANS)).to(self.device).requires_grad_(False)
        self.recipe = Recipe.parse(config.degradation) if config.degradation else None
        if bool(config.add) != bool(self.recipe) or (config.add and not config.start_from):
            raise UniresError("A router's new column needs `add`, `degradation` and `start_from`.")
        if config.add:
            self.router = self._with_expert(config)
        elif config.start_from:
            known = Router.load(Path(config.start_from))
            if known is None or known.config.report_width != self.router.config.report_width:
                raise UniresError(f"There is no router of this shape in {shown(config.start_from)}.")
            for name in ("enter", "inner", "report", "photo"):
                getattr(self.router, name).load_state_dict(getattr(known, name).state_dict())
            self.router.mean.copy_(known.mean)
            self.router.deviation.copy_(known.deviation)
        paths = [p for folder in config.clean for p in photo_paths(Path(folder))]
        if not paths:
            raise UniresError("The configuration names no folder of clean photos.")
        self.photos = Atlas.load(paths, max(config.crop, config.seen) + 2 * config.margin, self.device)

    def _with_expert(self, c: RouterTraining) -> Router:
        known = Router.load(Path(c.start_from))
        if known is None:
            raise UniresError(f"There is no router in {shown(c.start_from)}.")
        if c.add in known.config.plans[0][0]:
            raise UniresError(f"The router in {shown(c.start_from)} knows {shown(c.add)} already.")
        Expert.parse(c.add, self.denoiser.facts.tasks)
        return known.with_expert(c.add).to(self.device)

    def run(self) -> None:
        if not self.config.start_from:
            self.learn_report(self.collect())
            self.save()
        samples = self.open(self.config.samples)
        self.judge(samples)
        for plan, steps in enumerate(self.router.config.plans):
            for step in range(len(steps)):
                self.ask(samples, plan, step)
                self.learn_weights(samples, plan, step)
                self.save()
        if self.router.choice is not None and not self.config.add:
            self.learn_choice(samples)
            self.save()

    def save(self) -> None:
        folder = Path(self.config.run)
        folder.mkdir(parents=True, exist_ok=True)
        self.router.save(folder)

    def draw(self, index: int, count: int, crop: int) -> tuple[Tensor, mixtures.Mixture, Tensor]:
        """Clean crops, what became of them, and where: B x 1 x H x W, one where degraded. In a part of them a region
        stays clean. The window is cut after degrading, so that borders are real."""
        c = self.config
        seed = (c.seed * 1_000_003 + index) * 4099
        host = torch.Generator().manual_seed(seed)
        device = torch.Generator(self.device).manual_seed(seed + 1) if self.device.type != "cpu" else host
        clean = self.photos.crops(self.photos.places(count, crop + 2 * c.margin, host))
        source = clean
        if self.recipe:
            seeds, suffers = torch.randint(2**62, (count,), generator=host), torch.rand(count, generator=host) < 0.5
            parts = [
                self.recipe(x[None], seed) if yes else x[None]
                for x, seed, yes in zip(clean, seeds.tolist(), suffers.tolist(), strict=True)
            ]
            source = torch.cat(parts)
        mixture = mixtures.draw(source, host, device)
        top, left = torch.randint(0, 2 * c.margin + 1, (2,), generator=host).tolist()
        window = (..., slice(top, top + crop), slice(left, left + crop))
        where = _regions(count, crop, c.region_share, host).to(self.device)
        degraded = torch.where(where, mixture.degraded[window], clean[window])
        return clean[window], dataclasses.replace(mixture, degraded=degraded), where.float()

    def open(self, count: int, weigh: bool = True) -> list[Sample]:
        """The first `count` samples, to learn weights from; or the report, for which pixels are not kept."""
        crop = self.config.seen if weigh else self.config.crop
        inner = slice(self.edge, crop - self.edge)
        columns: list[Tensor] = []  # all samples' in one tensor each: small ones among large ones would scatter memory
        started = time.monotonic()
        for index in range(0, count, 8):
            clean, mixture, where = self.draw(index, 8, crop)
            features, power = spectra(mixture.degraded)
            own = [clean[..., inner, inner], mixture.degraded[..., inner, inner], power.mean(dim=(1, 2))]
            told = [features.half(), mixture.severity, mixture.harm, F.avg_pool2d(where, CELL)]
            parts = [*(own if weigh else [torch.empty(8, 0)] * 3), *told]
            columns = columns or [part.new_empty(count, *part.shape[1:]) for part in parts]
            for column, part in zip(columns, parts, strict=True):
                column[index : index + 8] = part[: count - index]
            if index % 1000 == 992:
                self.log(f"{index + 8} samples, {(index + 8) / (time.monotonic() - started):.1f} a second")
        return [Sample(*row) for row in zip(*columns, strict=True)]

    def collect(self) -> list[Sample]:
        """The report's samples: from the run's folder if they are there already, else made and kept there."""
        c = self.config
        file, names = Path(c.run) / "samples.safetensors", ("spectra", "severity", "harm", "where")
        folders = [str(Path(folder).resolve()) for folder in c.clean]
        key = f"{folders} {c.crop} {c.margin} {c.region_share} {c.seed} {c.report_samples} {mixtures.COUNT_ODDS}"
        if file.exists():
            with safe_open(file, "pt") as opened:
                if (opened.metadata() or {}).get("key") == key:
                    columns = [opened.get_tensor(name) for name in names]
                    none = torch.empty(0)
                    return [Sample(none, none, none, *row) for row in zip(*columns, strict=True)]
        samples = self.open(c.report_samples, weigh=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: torch.stack([getattr(s, n) for s in samples]) for n in names}, file, {"key": key})
        return samples

    # -- what is wrong with the photo -----------------------------------------------------------------------

    def learn_report(self, samples: list[Sample]) -> None:
        """Presence by cross-entropy, severity and harm by squared error where the degradation is there."""
        r = self.router
        some = torch.stack([s.spectra for s in samples[:512]]).float()
        r.mean.copy_(some.mean(dim=(0, 2, 3)))
        r.deviation.copy_(some.std(dim=(0, 2, 3)).clamp(min=1e-3))
        parts = [r.enter, r.inner, r.report, r.photo]

        def loss(chosen: list[Sample]) -> Tensor:
            return _report_loss(r, chosen)

        def score(test: list[Sample]) -> str:
            presence, severity, harm, _ = r.judge(r.look(_stack(test)))
            there = torch.stack([s.severity for s in test]) >= 0
            true = torch.stack([s.harm for s in test])
            right = ((presence.cpu() > 0) == there).float().mean()
            worst = torch.where(presence > 0, harm, -9.0).argmax(dim=1).cpu() == true.argmax(dim=1)
            strongest = worst[there.any(dim=1)].float().mean()
            off = (severity.cpu() - torch.stack([s.severity for s in test])) * there
            off = off.square().sum(dim=0) / there.sum(dim=0)
            said = ", ".join(f"{v:.3f}" for v in off.sqrt().tolist())
            return f"presence right {right:.1%}, strongest right {strongest:.1%}, severities off by {said}"

        parameters = [p for part in parts for p in part.parameters()]
        self._learn("report", parameters, samples, loss, score, self.config.report_rounds)

    def judge(self, samples: list[Sample]) -> None:
        """Settle what the report says of each sample: experts are told that, and not the truth, as at test time."""
        with torch.inference_mode():
            for s in samples:
                presence, severity, harm, _ = (v[0].clone() for v in self.router.judge(self.router.look(_stack([s]))))
                s.known, s.told = self.router.known(presence, severity, harm, s.plane)

    # -- the experts' answers -------------------------------------------------------------------------------

    def ask(self, samples: list[Sample], plan: int, step: int) -> None:
        """Run the step's experts on every sample, and keep the products of their errors. A plan's first step asks
        whom the first plan asked: their answers are there already."""
        plans = self.router.config.plans
        names = plans[plan][step]
        if plan and step == 0:
            some = [plans[0][0].index(name) for name in names]
            for sample in samples:
                sample.answers = sample.asked[some]
                sample.grams.append(sample.grams[0][..., some, :][..., some])
            return
        experts = [Expert.parse(name, self.denoiser.facts.tasks) for name in names]
        started = time.monotonic()
        size, cells = samples[0].clean.shape, self.config.asked // CELL
        kept = torch.empty(len(samples), len(experts), *size, dtype=torch.float16, device=self.device)
        grams = torch.empty(len(samples), cells, cells, len(experts), len(experts), device=self.device)
        for number, sample in enumerate(samples):
            lq = sample.degraded[None]
            relay = lq if step == 0 else self._estimate(sample, plan, step - 1)
            asked = [e for e in experts if e.task != KEEP]
            seen = torch.cat([self.denoiser.encode(relay if e.condition == "relay" else lq) for e in asked])
            # at t = 1, as who sees the relay starts afresh (`unires.sample.sampler`)
            out = self.denoiser.predict(
                torch.zeros_like(seen), 1.0, seen, [e.task for e in asked], [sample.told.get(e.task) for e in asked]
            )
            answered = iter(self.denoiser.decode(out))
            same = {"relay": relay[0], "lq": lq[0]}
            answers = torch.stack([same[e.condition] if e.task == KEEP else next(answered) for e in experts])
            kept[number], grams[number] = answers, _grams(answers - sample.clean, CELL)
            if number % 200 == 199:
                pace = (number + 1) / (time.monotonic() - started)
                self.log(f"plan {plan + 1}, step {step + 1}: {number + 1} samples asked about, {pace:.1f} a second")
        for sample, answers, gram in zip(samples, kept, grams, strict=True):
            sample.answers = answers
            sample.grams.append(gram)
            if not plan and step == 0:
                sample.asked = answers

    def _estimate(self, sample: Sample, plan: int, step: int) -> Tensor:
        """What the trained router makes of a sample in a step, from the answers at hand: 1 x 3 x H x W."""
        with torch.inference_mode():
            row = self._rows([sample], plan, step)[0][0]
            maps = F.interpolate(row[:, None], size=sample.degraded.shape[-2:], mode="bilinear", align_corners=False)
            return (maps * sample.answers.float()).sum(dim=0)[None]

    # -- the weights ----------------------------------------------------------------------------------------

    def _rows(self, samples: list[Sample], plan: int, step: int) -> tuple[Tensor, Tensor]:
        """Weights of the centre's cells, and passes."""
        rows, passes = self.router.decide(self.router.look(_stack(samples)), _known(samples), plan, step)
        edge, cells = self.edge // CELL, self.config.asked // CELL
        return rows[..., edge : edge + cells, edge : edge + cells], passes

    def learn_weights(self, samples: list[Sample], plan: int, step: int) -> None:
        """Least log squared error of the composed estimate, plus a charge for each expert that has to run."""
        place, names = self.router.config.place(plan, step), self.router.config.plans[plan][step]
        errors = torch.stack([s.grams[place].mean(dim=(0, 1)).diagonal() for s in samples[-_held(samples) :]])
        alone = ", ".join(f"{e} {float(_decibels(errors[:, i])):.2f}" for i, e in enumerate(names))
        self.log(f"plan {plan + 1}, step {step + 1}, each alone on the held-out samples, in dB: {alone}")

        def loss(chosen: list[Sample]) -> Tensor:
            rows, passes = self._rows(chosen, plan, step)
            return self._misfit(chosen, rows, place).mean() + self.config.charge * passes.sum(dim=1).mean()

        def score(test: list[Sample]) -> str:
            rows, _ = self._rows(test, plan, step)
            return f"{_gain(self._misfit(test, rows, place)):.3f} dB, {float(_used(rows, names).mean()):.2f} passes"

        named = self.router.weigh[place].named_parameters()
        hooks = []
        if self.config.add:  # the last row of what has a row for each expert
            named = ((n, p) for n, p in named if n.startswith(("gate.", "leave.")))
        parameters = [p for _, p in named]
        if self.config.add:
            hooks = [p.requires_grad_().register_hook(_last_row) for p in parameters]  # type: ignore[no-untyped-call]
        self._learn(f"plan {plan + 1}, step {step + 1}", parameters, samples, loss, score, self.config.rounds)
        for hook in hooks:
            hook.remove()

    def learn_choice(self, samples: list[Sample]) -> None:
        """Which plan to choose: least log squared error of what it ends in, its passes charged for."""
        config = self.router.config
        with torch.inference_mode():
            columns = []
            for p, plan in enumerate(config.plans):
                rows = [self._rows(samples, p, s)[0] for s in range(len(plan))]
                used = torch.stack([_used(row, pool) for row, pool in zip(rows, plan, strict=True)]).sum(dim=0)
                columns.append((self._misfit(samples, rows[-1], config.place(p, len(plan) - 1)), used))
            misfits, passes = (torch.stack(values, dim=1).clone() for values in zip(*columns, strict=True))
        numbers = {id(sample): i for i, sample in enumerate(samples)}

        def settled(chosen: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
            some = [numbers[id(sample)] for sample in chosen]
            logits = self.router.choose(self.router.look(_stack(chosen)), _known(chosen))
            return logits, misfits[some], passes[some]

        def loss(chosen: list[Sample]) -> Tensor:
            logits, misfit, used = settled(chosen)
            return (logits.softmax(dim=1) * (misfit + self.config.charge * used)).sum(dim=1).mean()

        def score(test: list[Sample]) -> str:
            logits, misfit, used = settled(test)
            best = logits.argmax(dim=1, keepdim=True)
            each = ", ".join(f"{_gain(misfit[:, p]):.3f}" for p in range(misfit.shape[1]))
            gain, passes = _gain(misfit.gather(1, best)), float(used.gather(1, best).mean())
            most = _gain(misfit.amin(dim=1))
            return f"{gain:.3f} dB, {passes:.2f} passes; each plan alone {each}, the better of them {most:.3f}"

        assert self.router.choice is not None
        self._learn("choice of a plan", list(self.router.choice.parameters()), samples, loss, score, self.config.rounds)

    def _learn(
        self, name: str, parameters: list[torch.nn.Parameter], samples: list[Sample],
        loss: Callable[[list[Sample]], Tensor], score: Callable[[list[Sample]], str], rounds: int,
    ) -> None:
        """Train a part of the router; the last tenth of the samples only tells how well it generalises."""
        c = self.config
        held = _held(samples)
        train, test = samples[:-held], samples[-held:]
        decay = 0.0 if c.add else 1e-2
        optimizer = torch.optim.AdamW([p.requires_grad_() for p in parameters], lr=c.rate, weight_decay=decay)
        generator = torch.Generator().manual_seed(c.seed)
        for round_ in range(rounds):
            for group in optimizer.param_groups:
                group["lr"] = c.rate * min(1.0, 1.3 * (1 - round_ / rounds))
            chosen = torch.randint(len(train), (min(64, len(train)),), generator=generator).tolist()
            self.router.train()
            value = loss([train[i] for i in chosen])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            optimizer.step()
            self.router.eval()
            if round_ % 500 == 499 or round_ + 1 == rounds:
                with torch.inference_mode():
                    self.log(f"{name}, round {round_ + 1}: loss {float(value.detach()):.3f}; held out: {score(test)}")
        for p in parameters:
            p.requires_grad_(False)

    def _misfit(self, samples: list[Sample], rows: Tensor, place: int) -> Tensor:
        """Log squared error of the estimates that these weights compose, B."""
        grams = torch.stack([s.grams[place] for s in samples])
        error = torch.einsum("bkyx,byxkl,blyx->byx", rows, grams, rows).mean(dim=(1, 2))
        return (error + VISIBLE).log()


def _decibels(error: Tensor) -> Tensor:
    """Mean PSNR, where what can't be seen doesn't count: a clean photo that is kept has 50 dB, not infinitely many."""
    return (-10 * (error + VISIBLE).log10()).mean()


def _gain(misfit: Tensor) -> float:
    """Mean PSNR of log squared errors, likewise."""
    return float(-10 / math.log(10) * misfit.mean())


def _used(rows: Tensor, names: Sequence[str]) -> Tensor:
    """Network passes that weights, B x experts x h x w, take: B."""
    networks = torch.tensor([not name.startswith(KEEP) for name in names], device=rows.device)
    return (rows[:, networks].abs().amax(dim=(2, 3)) >= LEAST).float().sum(dim=1)


def _known(samples: list[Sample]) -> Tensor:
    return torch.stack([s.known for s in samples])


def _regions(count: int, size: int, share: float, host: torch.Generator) -> Tensor:
    """B x 1 x size x size, true where degraded: everywhere, or for a share of the pictures on one side of a line."""
    angle, distance, partly = torch.rand(3, count, 1, 1, generator=host)
    ramp = torch.linspace(-1, 1, size)
    along = torch.cos(angle * 2 * math.pi) * ramp[:, None] + torch.sin(angle * 2 * math.pi) * ramp
    degraded: Tensor = (along < distance - 0.3) | (partly >= share)
    return degraded[:, None]


def _last_row(gradient: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(gradient[:-1]), gradient[-1:]))


def _held(samples: list[Sample]) -> int:
    return max(1, len(samples) // 10)


def _stack(samples: list[Sample]) -> Tensor:
    return torch.stack([s.spectra for s in samples]).float()


def _report_loss(router: Router, samples: list[Sample]) -> Tensor:
    presence, severity, harm, where = router.judge(router.look(_stack(samples)))
    true = torch.stack([s.severity for s in samples]).to(presence)
    changed = torch.stack([s.harm for s in samples]).to(presence) / HARM_UNIT
    target = (true >= 0).float()
    everywhere = target[:, :, None, None] * torch.stack([s.where for s in samples]).to(presence)
    cross = F.binary_cross_entropy_with_logits
    count = target.sum().clamp(min=1)
    strength = ((severity - true) ** 2 * target).sum() / count
    change = ((harm - changed) ** 2 * target).sum() / count
    return cross(presence, target) + 0.2 * cross(where, everywhere) + 30 * strength + 0.5 * change


def _grams(errors: Tensor, cell: int) -> Tensor:
    """K x 3 x H x W to h x w x K x K: mean products by cell."""
    k, _, height, width = errors.shape
    parts = errors.reshape(k, 3, height // cell, cell, width // cell, cell).permute(2, 4, 0, 1, 3, 5).flatten(3)
    return parts @ parts.mT / parts.shape[-1]
