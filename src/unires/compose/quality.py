"""How good a restored picture is, without knowing the truth. A quality function takes B x 3 x H x W in [0, 1] and
returns B numbers, more being better; if it is to be climbed (`search.optimised`), it is differentiable."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unires.compose.report import Judgement
from unires.compose.router import HARM_UNIT, Router

Quality = Callable[[Tensor], Tensor]
INVISIBLE = 1e-5  # squared error (50 dB) that nobody sees


def remaining_harm(router: Router) -> Quality:
    """The error that is left, in dB below full scale, as the router reads it: each degradation's harm by how likely
    it is there. Works offline; the router has seen degraded photos, not restored ones, so that it doesn't know
    what a network invents."""

    def quality(pictures: Tensor) -> Tensor:
        judged: Judgement = router.report(router.report.see(pictures.to(router.report.mean)))
        left = (judged.presence.sigmoid() * 10 ** (judged.harm * HARM_UNIT / 10)).sum(dim=1)
        error: Tensor = left + INVISIBLE
        return -10 * error.log10().to(pictures)

    return quality
