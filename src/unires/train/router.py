"""Training the router: first to report what is wrong with a photo, then to weigh frozen experts.

As a step is linear in its weights and these sum to one, its squared error on a patch is w G w, with G the K x K matrix
of the mean products of the experts' errors (`unires.bench.oracle` finds a photo's best w from the same matrix). So
the experts run once for each sample; after that the gradient through the sampler is exact and costs next to nothing,
step by step: the second step's experts see (as relay) what the trained first step makes.

What is best after one step is not what a second step makes the most of: that deblurs a photo well which was denoised
first, and not one that was half deblurred; nor one in which half of the noise and half of JPEG's blocks are left. So
noise is taken out first, then what JPEG did, each by its own expert alone, before the others work on what is left. What
that is a second look tells (`train/second.py`), which is learnt before the last step's weights are. A plan of one step,
with all experts, is there for who wants no more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unires.compose.experts import KEEP, Expert
from unires.compose.report import Judgement
from unires.compose.router import LEAST, Router, RouterConfig
from unires.compose.spectrum import CELL, light
from unires.degrade.isolated import TASKS
from unires.degrade.operators import round8
from unires.denoise.checkpoint import load_denoiser
from unires.denoise.interface import Denoiser
from unires.errors import UniresError, shown
from unires.restore.restorer import pick_device
from unires.train.config import RouterTraining
from unires.train.report import learn_report
from unires.train.samples import TOGETHER, Log, Sample, Samples
from unires.train.second import learn_second_look

ALL = ("blind", *TASKS, KEEP)
THEN = ("keep@relay", *(f"{task}@relay" for task in TASKS), KEEP)
PLANS = ((ALL,), ((KEEP, "denoise"), ("keep@relay", "dejpeg@relay"), THEN))
VISIBLE = 1e-5  # squared error (50 dB) below which getting closer is worth little


class RouterTrainer:
    """`RouterTrainer(config).run()` leaves `router.safetensors` in the folder `config.run`."""

    def __init__(self, config: RouterTraining, log: Log = print) -> None:
        self.config, self.log = config, log
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device(pick_device(config.device))
        self.denoiser: Denoiser = load_denoiser(Path(config.model) if config.model else None, str(self.device))
        self.router = Router(RouterConfig(TASKS, PLANS)).to(self.device).eval().requires_grad_(False)
        if bool(config.add) != bool(config.degradation) or (config.add and not config.start_from):
            raise UniresError("A router's new column needs `add`, `degradation` and `start_from`.")
        if config.add:
            self.router = self._with_expert(config)
        elif source := config.start_from or config.report_from:
            known = Router.load(Path(source))
            if known is None or known.config.report_width != self.router.config.report_width:
                raise UniresError(f"There is no router of this shape in {shown(source)}.")
            self.router.report.load_state_dict(known.report.state_dict())
            if config.start_from:
                self.router.second.load_state_dict(known.second.state_dict())
                if not config.rounds or config.last_step_only:
                    self.router.weigh.load_state_dict(known.weigh.state_dict())
        self.samples = Samples(config, log)
        self.inner = (..., *(slice(config.rim, config.asked - config.rim),) * 2)  # where errors are measured

    def _with_expert(self, c: RouterTraining) -> Router:
        known = Router.load(Path(c.start_from))
        if known is None:
            raise UniresError(f"There is no router in {shown(c.start_from)}.")
        if c.add in known.config.plans[0][0]:
            raise UniresError(f"The router in {shown(c.start_from)} knows {shown(c.add)} already.")
        Expert.parse(c.add, self.denoiser.facts.tasks)
        return known.with_expert(c.add).to(self.device)

    def run(self) -> None:
        c = self.config
        if not c.start_from:
            learn_report(self.router.report, self.samples, log=self.log)
            self.save()
        samples = self.samples.open(c.samples, self.router.report) if c.rounds else []
        # a degradation that seems to be alone is its expert's, with nothing to weigh
        samples = [s for s in samples if self.router.lone(s.judged) is None]
        if c.rounds and len(samples) < 2:
            raise UniresError(f"Of {c.samples} samples {len(samples)} leave anything to weigh: too few.")
        self.settle(samples)
        plans = self.router.config.plans
        first = len(plans) - 1 if c.last_step_only else 0
        for plan, steps in list(enumerate(plans))[first:]:
            for step in range(len(steps)):
                last = plan + 1 == len(plans) and 0 < step == len(steps) - 1
                if last:
                    if c.second_samples and not c.add:
                        learn_second_look(self.router, self.denoiser, self.samples, self.log)
                        self.save()
                    self.look_again(samples)
                if c.rounds:
                    self.ask(samples, plan, step)
                    if last or not c.last_step_only:
                        self.learn_weights(samples, plan, step)
                        self.save()

    def save(self) -> None:
        folder = Path(self.config.run)
        folder.mkdir(parents=True, exist_ok=True)
        self.router.save(folder)

    def settle(self, samples: list[Sample]) -> None:
        """What of each sample is known, and told to experts."""

        @torch.inference_mode()
        def one(s: Sample) -> None:
            s.known, s.told = self.router.known(s.judged, s.plane, s.left)

        with ThreadPoolExecutor() as pool:
            list(pool.map(one, samples))

    @torch.inference_mode()
    def look_again(self, samples: list[Sample]) -> None:
        """What is known of each sample when the first steps have cleaned it. Of these only the centre was cleaned, and
        less is seen of them than of a photo."""
        plan = len(self.router.config.plans) - 1
        last = len(self.router.config.plans[plan]) - 1
        reader = self.router.second.reader(self.router.report)
        for s in samples:
            rows = self.router.rows(s.look[None].float(), s.known.to(self.device), plan, last)
            if self.router.cleaning(rows):
                cleaned = self._estimate([s], plan, last - 1)
                s.left = light(cleaned).mean(dim=(1, 2))[0].cpu()
                said = reader(reader.see(round8(cleaned))).of(0)
                before = Judgement(*(v.to(self.device) for v in s.judged))
                s.judged = Judgement(*(v.cpu() for v in self.router.settled(before, said)))
                s.first = s.known  # by which the steps that clean have been weighed
        self.settle(samples)

    # -- the experts' answers -------------------------------------------------------------------------------

    def ask(self, samples: list[Sample], plan: int, step: int) -> None:
        """Run the step's experts on every sample, and keep the products of their errors. A plan's first step asks
        whom the first plan asked: their answers are there already, if it was."""
        plans = self.router.config.plans
        names, place = plans[plan][step], self.router.config.place(plan, step)
        if plan and step == 0 and 0 in samples[0].grams:
            places = [plans[0][0].index(name) for name in names]
            for sample in samples:
                sample.answers = sample.asked[places]
                sample.grams[place] = sample.grams[0][..., places, :][..., places]
            return
        experts = [Expert.parse(name, self.denoiser.facts.tasks) for name in names]
        started = time.monotonic()
        size, cells = samples[0].clean.shape, (self.config.asked - 2 * self.config.rim) // CELL
        kept = torch.empty(len(samples), len(experts), *size, dtype=torch.float16, device=self.device)
        grams = torch.empty(len(samples), cells, cells, len(experts), len(experts), device=self.device)
        together = TOGETHER if self.device.type == "cuda" else 1  # fast on a processor: what stays in its cache
        for first in range(0, len(samples), together):
            some = samples[first : first + together]
            lq = torch.stack([s.degraded for s in some])
            given = {"lq": lq, "relay": lq if step == 0 else self._estimate(some, plan, step - 1)}
            answers = torch.stack([given[e.condition] for e in experts], dim=1)
            # whose weight may be more than nothing (see `Weigher`)
            asked = [(k, i) for k, e in enumerate(experts) for i, s in enumerate(some)
                     if e.task != KEEP and (e.task not in TASKS or e.task in s.told)]  # fmt: skip
            if asked:
                seen = self.denoiser.encode(torch.cat([given[experts[k].condition][i : i + 1] for k, i in asked]))
                # at t = 1, as who sees the relay starts afresh (`unires.sample.sampler`)
                out = self.denoiser.predict(
                    torch.zeros_like(seen), 1.0, seen, [experts[k].task for k, _ in asked],
                    [some[i].told.get(experts[k].task) for k, i in asked],
                )
                for (k, i), answer in zip(asked, self.denoiser.decode(out), strict=True):
                    answers[i, k] = answer
            for number, (sample, own) in enumerate(zip(some, answers, strict=True), start=first):
                kept[number], grams[number] = own, _grams((own - sample.clean)[self.inner], CELL)
            done = first + len(some)
            if first // 200 != done // 200:
                pace = done / (time.monotonic() - started)
                self.log(f"plan {plan + 1}, step {step + 1}: {done} samples asked about, {pace:.1f} a second")
        for sample, answers, gram in zip(samples, kept, grams, strict=True):
            sample.answers = answers
            sample.grams[place] = gram
            if place == 0:
                sample.asked = answers

    def _estimate(self, samples: list[Sample], plan: int, step: int) -> Tensor:
        """What the trained router makes of samples in a step, from the answers at hand: B x 3 x H x W."""
        with torch.inference_mode():
            # steps before a second look stay as they were (`Router.look_again`)
            known = [s.known if s.first is None else s.first for s in samples]
            rows = self._rows(samples, plan, step, rim=0, known=known)[0]
            maps = F.interpolate(rows, size=samples[0].degraded.shape[-2:], mode="bilinear", align_corners=False)
            answers = torch.stack([s.answers for s in samples]).float()
            estimate: Tensor = (maps[:, :, None] * answers).sum(dim=1)
            return estimate

    # -- the weights ----------------------------------------------------------------------------------------

    def _rows(
        self, samples: list[Sample], plan: int, step: int, rim: int | None = None, known: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights of the cells that errors are measured in (with a rim of 0: of all that experts see), and passes.
        known: of each sample (default: what is known of it by now)."""
        what = torch.stack([s.known for s in samples] if known is None else known).to(self.device)
        rows, passes = self.router.decide(_looks(samples), what, plan, step)
        rim = self.config.rim if rim is None else rim
        edge, cells = (self.samples.edge + rim) // CELL, (self.config.asked - 2 * rim) // CELL
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


def _last_row(gradient: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(gradient[:-1]), gradient[-1:]))


def _held(samples: list[Sample]) -> int:
    return max(1, len(samples) // 10)


def _looks(samples: list[Sample]) -> Tensor:
    return torch.stack([s.look for s in samples]).float()


def _grams(errors: Tensor, cell: int) -> Tensor:
    """K x 3 x H x W to h x w x K x K: mean products by cell."""
    k, _, height, width = errors.shape
    parts = errors.reshape(k, 3, height // cell, cell, width // cell, cell).permute(2, 4, 0, 1, 3, 5).flatten(3)
    return parts @ parts.mT / parts.shape[-1]
