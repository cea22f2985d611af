"""A warning of estimated log-determinants under importance weights."""

from __future__ import annotations

import sys
import warnings

from pyro.infer import Importance, RenyiELBO, ReweightedWakeSleep

_WEIGHTED = (Importance, RenyiELBO, ReweightedWakeSleep)


def warn_if_weighted(owner: str) -> None:
    """Warns if an importance-weighted objective is being computed.

    Its weights are exponentials, so noise in a log-determinant, unbiased as it is, biases them.
    An objective says nothing to the distributions it scores: its frame is looked for instead.
    """
    frame = sys._getframe(1)
    while frame is not None:
        objective = frame.f_locals.get("self")
        if isinstance(objective, _WEIGHTED):
            warnings.warn(
                f"{owner} estimates its log-determinant with random vectors under "
                f"{type(objective).__name__}, whose importance weights the noise biases. Build "
                'the layer with trace="exact".',
                stacklevel=2,
            )
            return
        frame = frame.f_back  # type: ignore[assignment]
