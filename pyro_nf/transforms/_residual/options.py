"""The options of estimated log-determinants."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_nf._checks import non_negative_int, positive_int


@dataclass(frozen=True)
class LogDetSeries:
    """How the log-determinant of a residual layer is estimated where it is not exact.

    Args:
        terms: Terms of the truncated series.
        exact_terms: Terms that the roulette always computes, in training.
        eval_exact_terms: The same in evaluation.
        stop: Probability of the roulette to stop after each further term. Its variance is finite
            only if the Jacobian's spectral radius is below the root of ``1 - stop``.
        probes: Random sign vectors that the estimate of a row is averaged over, in training.
        eval_probes: The same in evaluation.
        seed: Of the vectors that the truncated series takes in evaluation.

    Raises:
        TypeError: If a count is no integer.
        ValueError: If a count is below 1 or ``stop`` not inside (0, 1).
    """

    terms: int = 50
    exact_terms: int = 2
    eval_exact_terms: int = 20
    stop: float = 0.5
    probes: int = 1
    eval_probes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("terms", "exact_terms", "eval_exact_terms", "probes", "eval_probes"):
            positive_int("LogDetSeries", name, getattr(self, name))
        non_negative_int("LogDetSeries", "seed", self.seed)
        if not 0 < self.stop < 1:
            raise ValueError(
                f"LogDetSeries got stop={self.stop}. Pass a probability inside (0, 1), say 0.5."
            )
