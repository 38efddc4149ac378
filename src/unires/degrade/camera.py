"""Clean pictures as cameras write them at full resolution: soft of themselves, smoothed, sharpened, partly unfocused.

Photos to train on are reduced, so that every pixel of them is sharp; a camera's never are. What reads a photo shall not
take that for a blur to undo."""

from __future__ import annotations

import torch
from torch import Tensor

from unires.degrade import kernels, operators
from unires.degrade.isolated import Draw

LENS = (0.2, 1.2)  # pixels, the deviation of what lens, filter and demosaicing do together
FIELD_SHARE = 0.5  # of pictures, in which what is nearer or farther than the subject is out of focus
FIELD = (1.0, 6.0)  # pixels, the radius it is blurred by
SMOOTHED = (0.0, 6.0)  # of 255: differences from the surroundings up to which they are taken for noise
SHARPENED = (0.0, 1.5)  # how much of the difference from the surroundings is added


def camera_file(x: Tensor, host: torch.Generator) -> Tensor:
    """Clean pixels (B x 3 x H x W in [0, 1]) so treated, 8-bit valued. Optics act on light, the rest on sRGB values."""
    if not len(x):
        return x
    draw = Draw(len(x), host, host)
    # half of what is seen is in focus on average; beyond it the blur soon is as large as it gets
    depth = operators.smooth_depth(x[:, :1].cpu(), host).to(x)
    far = ((depth - draw.uniform(0.2, 0.8).to(x).view(-1, 1, 1, 1)) * 5).clamp(0, 1)
    far = far * draw.chance(FIELD_SHARE).to(x).view(-1, 1, 1, 1)
    unfocused = operators.blur(x, kernels.disc(draw.log_uniform(*FIELD)).to(x))
    x = x + far * (unfocused - x)
    x = operators.blur(x, kernels.gaussian(draw.uniform(*LENS)).to(x))
    detail = x - operators.smoothed(x, draw.uniform(0.7, 1.5))
    noise = (draw.uniform(*SMOOTHED) / 255).to(x).view(-1, 1, 1, 1)
    x = x - detail * noise**2 / (detail**2 + noise**2).clamp(min=1e-12)
    detail = x - operators.smoothed(x, draw.uniform(0.5, 1.5))
    return operators.round8(x + draw.uniform(*SHARPENED).to(x).view(-1, 1, 1, 1) * detail)
