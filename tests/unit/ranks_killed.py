"""``ddbench`` whose leading rank is killed as soon as a checkpoint is there: ``ranks_killed.py distill ...``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from ddbench.cli.main import run
from ddbench.distillation import runner
from ddbench.distillation.folder import checkpoint


def checkpoint_and_die(*args: Any) -> None:
    checkpoint(*args)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    runner.checkpoint = checkpoint_and_die
    run(sys.argv[1:])
