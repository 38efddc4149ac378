"""How the photos of a job are restored: data that any process can load the same restorer from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unires.denoise.checkpoint import digest
from unires.errors import UniresError, shown
from unires.jobs.folder import Restore, Share
from unires.jobs.journal import digest_of_file
from unires.photo import Photo
from unires.photo.files import check_encoding
from unires.restore.restorer import Options, Restorer


@dataclass(frozen=True)
class Settings:
    """model: a folder, or None for the shipped one; options: what `Restorer.__call__` takes; encode: what `write_photo`
    takes."""

    model: str | None
    device: str
    ensemble: int
    options: dict[str, Any]
    encode: dict[str, Any]

    def absolute(self) -> Settings:
        """The same for a process that runs in another folder."""
        weights = self.options["weights"]
        if weights is not None and weights.endswith(".json"):
            weights = str(Path(weights).absolute())
        model = None if self.model is None else str(Path(self.model).absolute())
        return replace(self, model=model, options={**self.options, "weights": weights})

    def load(self) -> Restore:
        """What to restore with. Refuses now what every photo would refuse. Raises UniresError."""
        options = self.options
        restorer = Restorer.from_pretrained(self.model, self.device, ensemble=self.ensemble)
        restorer.plan(options["weights"], options["steps"], options["fidelity"], options["scale"])
        Options(**options).check()
        check_encoding(self.encode["quality"], self.encode["bit_depth"])

        def restore(photo: Photo, progress: Share) -> Photo:
            return photo.with_pixels(restorer(photo.visible(self.encode["bit_depth"]), progress=progress, **options))

        return restore

    def data(self) -> dict[str, Any]:
        """What results depend on besides the photo, as JSON can hold it: of files their content. Raises UniresError."""
        weights = self.options["weights"]
        if weights is not None and weights.endswith(".json"):
            try:
                weights = digest_of_file(Path(weights))
            except OSError as error:
                raise UniresError(f"The weights {shown(weights)} can't be read: {error.strerror}.") from error
        model = digest(Path(self.model) if self.model else None)
        return {**self.options, "weights": weights, **self.encode, "ensemble": self.ensemble, "model": model}
