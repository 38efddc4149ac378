"""What a photo is known to have been made from, and which expert's estimate is kept to it."""

from __future__ import annotations

from types import EllipsisType
from typing import NamedTuple

from torch import Tensor

from unires.compose import cells, consistency
from unires.compose.cells import COMPRESSED, Cells
from unires.compose.experts import Expert
from unires.compose.grid import ENLARGED, Grid


class Origin(NamedTuple):
    """The small photo that it was enlarged from, and the cells of JPEG's coefficients that it lies in; None where that
    isn't known. size: rows and columns of a part that lie in the photo, beyond which a tile may reach; None: all."""

    grid: Grid | None = None
    cells: Cells | None = None
    size: tuple[int, int] | None = None

    def at(self, top: int, left: int, height: int, width: int) -> Origin:
        """Of the part whose first pixel that is, of a photo so large."""
        grid, cells = self.grid and self.grid.at(top, left), self.cells and self.cells.at(top, left)
        return Origin(grid, cells, (height - top, width - left))

    def enlarges(self, expert: Expert) -> bool:
        """Whether it is kept to the small photo."""
        return self.grid is not None and expert.task == ENLARGED and expert.condition in ("lq", "relay")

    def settled(self, estimate: Tensor, condition: Tensor) -> Origin:
        """The same, once one part's estimate by super-resolution, and what it saw, have told by which kernel the photo
        was reduced: else each part would choose one by itself, and their sharpness might differ."""
        if self.grid is None:
            return self
        inside = self._inside(estimate)
        kernel = consistency.reduced_by(estimate[inside], condition[inside], self.grid)
        return self._replace(grid=self.grid._replace(reduced_by=kernel))

    def keep(self, expert: Expert, estimate: Tensor, condition: Tensor) -> Tensor:
        """An expert's estimate of what it saw, B x 3 x H x W in [-1, 1], kept to equation (3) or (4) where its task is
        to undo what they say. What steps before have changed lies in no cell any more."""
        inside = self._inside(estimate)
        if self.grid and self.enlarges(expert):
            kept = consistency.consistent(estimate[inside], condition[inside], self.grid)
        elif self.cells and expert.task == COMPRESSED and expert.condition == "lq":
            kept = cells.within(estimate[inside], condition[inside], self.cells)
        else:
            return estimate
        out = estimate.clone()
        out[inside] = kept
        return out

    def _inside(self, part: Tensor) -> tuple[EllipsisType, slice, slice]:
        rows, columns = self.size or part.shape[-2:]
        return ..., slice(rows), slice(columns)
