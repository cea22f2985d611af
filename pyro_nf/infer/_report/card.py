"""The report card: its lines, its verdict and its table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pyro_nf.infer._annealed import AnnealedResult
from pyro_nf.infer._psis import Diagnostics
from pyro_nf.infer.guide_fit import GuideFit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["good", "usable with reweighting", "do not use", "unknown"]

_SEVERITY: dict[Verdict, int] = {
    "unknown": 0,
    "good": 1,
    "usable with reweighting": 2,
    "do not use": 3,
}
_SITES_IN_TABLE = 10


@dataclass(frozen=True)
class Line:
    """One line of a report card.

    Attributes:
        name: What was measured; of a site, ``"site"`` and its name.
        value: The numbers, as they are printed.
        verdict: ``"good"``, ``"usable with reweighting"``, ``"do not use"`` or ``"unknown"``.
        reading: What that means, in words.
    """

    name: str
    value: str
    verdict: Verdict
    reading: str

    @property
    def is_site(self) -> bool:
        """Whether the line is that of one site."""
        return self.name.startswith("site ")


@dataclass(frozen=True, eq=False)
class WeighedRows:
    """Scalar coordinates of the draws, for pictures.

    Attributes:
        rows: All sites' values side by side, shape ``(draws, columns)``.
        names: A name for each column.
        shift: By how much reweighting moves each column's mean, in standard deviations.
        log_weights: Log importance weights, ``(draws,)``.
        base: The draws in the guide's base space, ``(draws, D)``; None for a guide without one.
    """

    rows: Tensor
    names: list[str]
    shift: Tensor
    log_weights: Tensor
    base: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class ReportCard:
    """How far a fitted guide can be trusted: numbers, a verdict on each, and one on all.

    Print it for the table; ``card["ESS"]`` is a single line.

    Attributes:
        lines: The lines in the order of the table.
        diagnostics: The numbers that the importance weights give; where the data are subsampled
            only those of the ELBO mean anything.
        lost_mode: Whether one of the detectors found mass that the guide has lost; None if
            neither could look. See :func:`~pyro_nf.infer.report` for what they cannot see.
        annealed: The chains of the annealed detector; None where it did not run.
        fit: The fit that was handed in.
        weighed: The draws and their weights.
    """

    lines: list[Line]
    diagnostics: Diagnostics
    lost_mode: bool | None = None
    annealed: AnnealedResult | None = None
    fit: GuideFit | None = None
    weighed: WeighedRows | None = field(default=None)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all lines, those that say "unknown" aside."""
        return max((line.verdict for line in self.lines), key=_SEVERITY.__getitem__)

    def __getitem__(self, name: str) -> Line:
        """Returns the line of a name.

        Raises:
            KeyError: If there is none.
        """
        for line in self.lines:
            if line.name == name:
                return line
        known = ", ".join(line.name for line in self.lines)
        raise KeyError(f"ReportCard has no line {name!r}. It has: {known}.")

    def __repr__(self) -> str:
        """The lines as a table, under the verdict on all."""
        shown, hidden = self._shown()
        cells = [("", "value", "verdict", "reading")]
        cells += [(line.name, line.value, line.verdict, line.reading) for line in shown]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            + "  "
            + row[3]
            for row in cells
        ]
        if hidden:
            table.append(f"({hidden} more sites, none of them worse than those above)")
        return "\n".join([f"ReportCard: {self.verdict}{self._caveat()}", *table])

    def _shown(self) -> tuple[list[Line], int]:
        """The lines of the table, of sites only the worst, and how many are left out."""
        sites = [line for line in self.lines if line.is_site]
        worst = sorted(sites, key=lambda line: -_SEVERITY[line.verdict])[:_SITES_IN_TABLE]
        shown = [line for line in self.lines if not line.is_site or line in worst]
        return shown, len(sites) - len(worst)

    def _caveat(self) -> str:
        return "; lost modes cannot be ruled out" if self.lost_mode is None else ""

    def plot(self) -> Figure:
        """Draws the course of the fit, the weights' tail, the reweighting and the base space.

        Without a fit the distribution of the log weights stands in the first place; for a guide
        without a base space the fourth shows by how much reweighting moves each coordinate.

        Returns:
            The figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from pyro_nf.infer._report.picture import picture  # matplotlib is an extra

        return picture(self)
