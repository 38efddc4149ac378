"""The second look: what is wrong with a photo, judged again once the first steps have taken noise and JPEG out of it.

Under noise defocus and too few pixels leave the same low frequencies; in what denoising has made of the edges they
differ. So both are judged, the photo as it came and what the first steps left of it, and the two judgements make one.
Cleaned pictures are read with the report's own kernels, each channel of them scaled and shifted; what pixels enter by,
the mean spectrum and the last layers are the second look's own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unires.compose.report import EYE, LEAK, Judgement, Report

OWN = (
    "mean", "eye.enter.weight", "eye.enter.bias", "local.weight", "local.bias", "whole.4.weight", "whole.4.bias",
)  # fmt: skip
SCALED = (
    *(f"eye.{part}.{i}" for part in ("mix", "reduce") for i in range(len(EYE))), "enter", "inner", "whole.0", "whole.2",
)  # fmt: skip
HIDDEN = 32


class SecondLook(nn.Module):
    """All parameters are zero at first but those of a hidden layer: cleaned pictures are read like photos, and what was
    said of the photo stays."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        known = report.state_dict()
        self.own = nn.ParameterList(torch.zeros_like(known[name]) for name in OWN)
        self.scaled = nn.ParameterList(torch.zeros(2, len(known[f"{name}.bias"])) for name in SCALED)
        numbers = len(known["whole.4.bias"])
        self.share = nn.Parameter(torch.zeros(numbers))
        self.both = nn.Sequential(nn.Linear(2 * numbers, HIDDEN), nn.LeakyReLU(LEAK), nn.Linear(HIDDEN, numbers))
        for parameter in self.both[2].parameters():
            nn.init.zeros_(parameter)

    def changed(self, report: Report) -> dict[str, Tensor]:
        """What of the report's state is different where it reads cleaned pictures."""
        known = report.state_dict()
        state = {name: known[name] + change for name, change in zip(OWN, self.own, strict=True)}
        for name, (scale, shift) in zip(SCALED, self.scaled, strict=True):
            kernel = known[f"{name}.weight"]
            state[f"{name}.weight"] = kernel * (1 + scale).view(-1, *[1] * (kernel.dim() - 1))
            state[f"{name}.bias"] = known[f"{name}.bias"] * (1 + scale) + shift
        return state

    def reader(self, report: Report) -> Report:
        """The report that reads cleaned pictures."""
        reader = copy.deepcopy(report)
        reader.load_state_dict(self.changed(report), strict=False)
        return reader

    def settle(self, photo: Judgement, cleaned: Judgement) -> Judgement:
        """One judgement from two, of B photos each; of places, what was said of the photo."""
        first, second = (torch.cat(judged[:-1], dim=1) for judged in (photo, cleaned))
        settled: Tensor = first + self.share * (second - first) + self.both(torch.cat((first, second), dim=1))
        sizes = [v.shape[1] for v in photo[:-1]]
        presence, severity, harm, turn = torch.split(settled, sizes, dim=1)
        return Judgement(presence, severity, harm, turn, photo.where)
