"""What simulation-based calibration returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_nf.infer._ranks import UniformityTest, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Ranks of true values among a guide's draws, and whether they are uniform.

    Attributes:
        ranks: By site: how many of the draws lay below the true value, in 0..num_draws, of shape
            ``(num_simulations, *site_shape)``.
        fractions: The same on (0, 1), spread evenly within each rank's cell.
        num_draws: Number of draws in each simulation.
        significance: Probability with which a calibrated guide is called miscalibrated.
        test: The test of uniformity, with its simultaneous band.
        p_values: By site: the p-value of each element alone, of shape ``(*site_shape)``.
    """

    ranks: dict[str, Tensor]
    fractions: dict[str, Tensor]
    num_draws: int
    significance: float
    test: UniformityTest
    p_values: dict[str, Tensor]

    @property
    def num_quantities(self) -> int:
        """Number of scalar quantities ranked."""
        return sum(p.numel() for p in self.p_values.values())

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of quantities (Bonferroni)."""
        smallest = min(float(p.min()) for p in self.p_values.values())
        return min(1.0, smallest * self.num_quantities)

    @property
    def calibrated(self) -> bool:
        """Whether no quantity's ranks differ from uniform at the significance of the whole."""
        return self.p_value >= self.significance

    def quantities(self) -> dict[str, np.ndarray]:
        """Fractional ranks of each scalar quantity, ``(num_simulations,)``, by ``site[i, j]``."""
        return {
            name: column.numpy()
            for site, values in self.fractions.items()
            for name, column in zip(
                _names(site, values.shape[1:]),
                values.reshape(len(values), -1).unbind(1),
                strict=True,
            )
        }

    def flagged(self) -> dict[str, float]:
        """P-values of the quantities that fail, the smallest first."""
        found = {
            name: float(p)
            for site, values in self.p_values.items()
            for name, p in zip(_names(site, values.shape), values.flatten(), strict=True)
            if float(p) * self.num_quantities < self.significance
        }
        return dict(sorted(found.items(), key=lambda item: item[1]))

    @property
    def verdict(self) -> str:
        """The result in words."""
        flagged = self.flagged()
        if not flagged:
            return f"no sign of miscalibration (p = {self.p_value:.2g})"
        values = self.quantities()
        reasons = [f"{name}: {describe(values[name])}" for name in list(flagged)[:_MOST_SHOWN]]
        rest = len(flagged) - len(reasons)
        return (
            f"miscalibrated (p = {self.p_value:.2g}); "
            + ", ".join(reasons)
            + (f", and {rest} more" if rest else "")
        )

    def __repr__(self) -> str:
        """The verdict and the sizes."""
        simulations = len(next(iter(self.ranks.values())))
        return (
            f"CalibrationResult({self.verdict}; {simulations} simulations, "
            f"{self.num_draws} draws, {self.num_quantities} quantities)"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the ECDFs' differences from uniform with the band they should stay within.

        Args:
            ax: Where to draw; None for a new figure.

        Returns:
            The axes.
        """
        from pyro_nf.plot.calibration import calibration  # matplotlib is an extra

        return calibration(self, ax=ax)


def _names(site: str, shape: torch.Size) -> list[str]:
    if not shape:
        return [site]
    return [f"{site}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]
