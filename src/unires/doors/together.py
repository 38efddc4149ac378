"""Training on several processes at once: how each of them ends."""

from __future__ import annotations

import os
import sys


def leave() -> None:
    """To be called when all is written. One of several processes ends here, without taking Python down: a model that
    was wrapped for them keeps gloo's threads alive, and one that drops a tensor while the interpreter goes aborts the
    process (PyTorch, pull request 179291)."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
