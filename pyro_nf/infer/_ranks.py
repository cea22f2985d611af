"""Uniformity of ranks: the ECDF of fractional ranks, its simultaneous band and p-value."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

_MOST_POINTS = 100
_SIMULATIONS = 4000


def ranks_of(truth: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """The number of draws below a true value; ties are broken at random.

    Args:
        truth: Shape ``(*shape)``.
        draws: Shape ``(draws, *shape)``.
        generator: Source of the tie-breaks, on the CPU.

    Returns:
        Integers in 0..draws, of shape ``(*shape)``, on the CPU.
    """
    below = (draws < truth).sum(0).cpu()
    ties = (draws == truth).sum(0).cpu()
    share = torch.rand(ties.shape, generator=generator, dtype=torch.float64)
    return below + (share * (ties + 1)).floor().long()


def fractions_of(ranks: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Ranks spread within their cells: uniform on (0, 1) if the ranks are on 0..num_draws."""
    share = torch.rand(ranks.shape, generator=generator, dtype=torch.float64)
    return (ranks + share) / (num_draws + 1)


class UniformityTest:
    r"""The test of Säilynoja, Bürkner and Vehtari that N numbers are uniform on (0, 1).

    At each of K points z the number of values below is binomial(N, z) if they are. The statistic
    is the smallest of the two-sided tail probabilities over the points; its distribution is
    simulated, which gives the band that the whole ECDF stays within with a given probability.

    Args:
        size: Number N of values.
        seed: Seed of the simulation.

    Attributes:
        points: The points z, inside of (0, 1).

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner, Vehtari, 2022), arXiv 2103.10522.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        count = min(size, _MOST_POINTS)
        self.points = np.arange(1, count + 1) / (count + 1)
        below = np.arange(size + 1)[:, None]  # each number of values that may lie below a point
        lower = binom.cdf(below, size, self.points)
        upper = binom.sf(below - 1, size, self.points)
        self._tails = np.minimum(1.0, 2 * np.minimum(lower, upper))  # (size + 1, points)
        uniform = np.random.default_rng(seed).random((_SIMULATIONS, size))
        self._simulated = np.sort([self.statistic(values) for values in uniform])

    def statistic(self, values: np.ndarray) -> float:
        """The smallest tail probability of the counts below the points."""
        below = np.searchsorted(np.sort(values), self.points, side="right")
        return float(self._tails[below, np.arange(len(self.points))].min())

    def p_value(self, values: np.ndarray) -> float:
        """The probability of a statistic as small as that of the values, were they uniform."""
        statistic = self.statistic(values)
        # Simulated and theirs are the same sums, which rounding may tell apart.
        smaller = int(np.searchsorted(self._simulated, statistic * (1 + 1e-9), side="right"))
        if smaller > 0:
            return (smaller + 1) / (_SIMULATIONS + 1)
        # Beyond the simulation's reach: the sum over the points is a bound.
        return min(1 / (_SIMULATIONS + 1), statistic * len(self.points))

    def band(self, significance: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of the ECDF at the points, left with this probability."""
        tail = float(np.quantile(self._simulated, significance)) / 2
        lower, upper = (binom.ppf(at, self._size, self.points) for at in (tail, 1 - tail))
        return lower / self._size, upper / self._size


def describe(values: np.ndarray) -> str:
    """What is wrong with a guide whose fractional ranks are these and not uniform."""
    centred = values - 0.5
    shift = centred.mean() * np.sqrt(12 * len(values))
    spread = (np.square(centred).mean() - 1 / 12) * np.sqrt(180 * len(values))
    if abs(spread) > abs(shift):
        return "the guide is too narrow" if spread > 0 else "the guide is too wide"
    return "the guide lies too low" if shift > 0 else "the guide lies too high"
