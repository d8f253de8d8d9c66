"""Flags of the needs that ship with ddbench. Imports no torch, so that recipes are read without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class NoFlags:
    """Of a need without flags."""


@dataclass(frozen=True, kw_only=True)
class ExpertsFlags:
    """Of :class:`ddbench.methods.needs.experts.Experts`."""

    buffers: Path = Path("expert_trajectories")
    """Root of the trajectory store, or one store folder."""


@dataclass(frozen=True, kw_only=True)
class TeacherFlags:
    """Of :class:`ddbench.methods.needs.teacher.TrainedTeacher`."""

    teachers: Path = Path("teachers")
    """Root of the teachers; one is trained first where there is none that fits."""
    teacher_student: str | None = None
    """Network of the teacher; default: a batch-norm ConvNet that fits the image size. Of a method that takes several in
    turn (gvbsm, edc): networks joined by commas; default: three ConvNets."""


@dataclass(frozen=True, kw_only=True)
class DiffusionFlags:
    """Of :class:`ddbench.methods.needs.diffusion.Diffusion`."""

    diffusions: Path = Path("diffusions")
    """Root of the diffusion models; one is trained first where there is none that fits."""
    diffusion_model: str | None = None
    """Folder of a diffusion model, or a pretrained one's name on the hub (owner/name); default: one of the root."""


SHIPPED = (ExpertsFlags, TeacherFlags, DiffusionFlags)
