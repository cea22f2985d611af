"""Affine maps under Pyro's names of the bounds of their scales."""

from __future__ import annotations

from pyro_nf._checks import negative_float, positive_float
from pyro_nf.bijections import Affine


def clipped_affine(owner: str, log_scale_min_clip: float, log_scale_max_clip: float) -> Affine:
    """Creates the affine map whose log-scale lies softly between two clips, or raises."""
    return Affine(
        max_log_scale=positive_float(owner, "log_scale_max_clip", log_scale_max_clip),
        min_log_scale=negative_float(owner, "log_scale_min_clip", log_scale_min_clip),
    )
