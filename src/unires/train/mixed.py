"""What isolation gives up: the same network trained on mixtures themselves, to compare experts with. It is none."""

from __future__ import annotations

import dataclasses
import math

import torch

from unires.degrade import mixtures
from unires.denoise.compact import TASKS
from unires.train.config import TrainConfig
from unires.train.loop import Batch, Log, Trainer


class MixedTrainer(Trainer):
    """One training run of `blind` alone, told nothing, on random mixtures (`degrade.mixtures`; none comes near a test
    recipe). Tasks, pairs and relay of the configuration play no part."""

    def __init__(self, config: TrainConfig, log: Log = print) -> None:
        super().__init__(dataclasses.replace(config, severity_dropout=1.0, relay_share=0.0, paired={}), log)

    def batch(self, step: int) -> Batch:
        c = self.config
        host, device = self._generators(step)
        clean = self.photos.crops(self.photos.places(c.batch, c.crop + 2 * c.margin, host))
        mixture = mixtures.draw(clean, host, device)
        blind = torch.full((c.batch,), TASKS.index("blind"))
        worst = mixture.severity.amax(dim=1).clamp(min=0)  # to know how large a loss to expect; the network isn't told
        known = blind, worst, torch.full((c.batch,), math.nan), torch.zeros(c.batch)
        return self._cut(clean, mixture.degraded, known, host, device)
