"""Counts of the evaluations that a solve costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Evaluations:
    """How often a vector field was evaluated for one call of a layer.

    Attributes:
        forward: Evaluations while the call ran.
        backward: Further ones while its gradient was computed, once it has been; backpropagation
            through the solver needs none.
    """

    forward: int = 0
    backward: int = 0
