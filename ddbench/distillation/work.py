"""What a worker does for a run whose pieces are shared out: it begins the run for itself, once, and does pieces."""

from __future__ import annotations

from ddbench.distillation.begin import begin
from ddbench.distillation.pieces import PieceJob, Piecework, piecework_here
from ddbench.distillation.start import opened
from ddbench.runtime.origin import code_record

_BEGUN: dict[str, Piecework] = {}
"""The run that this worker is at, by its arguments."""


def do_piece(job: PieceJob, number: int) -> dict[str, float]:
    """Do a piece of a run; returns the metrics of its last step.

    Raises:
        UserError: as the run does.
    """
    work = piecework_here()
    if work is None:
        key = repr(job)
        if key not in _BEGUN:
            _BEGUN.clear()
            arguments = opened(**job.arguments)
            _BEGUN[key] = Piecework(begin(**arguments, code=code_record(arguments["kind"])))
        work = _BEGUN[key]
    return work.do(number)
