"""What a fit of a guide returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

StopReason = Literal["max_steps", "converged", "affine", "non-finite", "interrupted"]


class Stage(NamedTuple):
    """One stage of a fit.

    Attributes:
        name: "path", "affine" or "flow".
        seconds: Wall-clock time.
        elbo: The ELBO at its end, in nats.
    """

    name: str
    seconds: float
    elbo: float


@dataclass(repr=False)
class GuideFit:
    r"""The course of a fit of a guide, and how well the guide fits.

    Attributes:
        guide: The fitted guide; of ``fit_target``, the fitted flow.
        elbo: The evidence lower bound in nats, from fresh draws.
        elbo_se: Its standard error.
        log_evidence: Log evidence in nats by importance sampling from the guide.
        k_hat: Shape of the importance weights' Pareto tail; below .7 they can be used.
        ess: Efficiency of the importance weights, between 0 and 1.
        var_log_w: Variance of the log weights; below .01 ``k_hat`` says nothing.
        losses: Negative ELBO of each step of the last stage; NaN where a step was skipped.
        stages: Name, seconds and ELBO of each stage.
        best_step: Step of the last stage whose weights were kept.
        skipped: Steps skipped because their density or gradient was not finite.
        particles: How the model ran on many draws: "plate", "vmap" or "loop".
        restarts: The ELBO of each restart; the best one's guide is kept.
        stopped: Why the last stage ended: ``"max_steps"``, ``"converged"``, ``"affine"`` (the
            affine stage was enough), ``"non-finite"`` or ``"interrupted"``.
        optima: Where the starts of the path stage ended, in unconstrained space.
        optima_log_density: The log density at these points.
        seconds: Wall-clock time of the whole.

    Examples:
        >>> from pyro_nf.infer import GuideFit
        >>> GuideFit(None, -1.5, 0.01, -1.49, 0.2, 0.98, 0.02, seconds=3.0)
        GuideFit(elbo=-1.500 ± 0.010, log_evidence=-1.490, k_hat=0.20, ess=0.98, seconds=3.0)
    """

    guide: Any
    elbo: float
    elbo_se: float
    log_evidence: float
    k_hat: float
    ess: float
    var_log_w: float
    losses: list[float] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    best_step: int = 0
    skipped: int = 0
    particles: str | None = None
    restarts: list[float] = field(default_factory=list)
    stopped: StopReason = "max_steps"
    optima: list[Tensor] = field(default_factory=list)
    optima_log_density: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __repr__(self) -> str:
        return (
            f"GuideFit(elbo={self.elbo:.3f} ± {self.elbo_se:.3f}, "
            f"log_evidence={self.log_evidence:.3f}, k_hat={self.k_hat:.2f}, ess={self.ess:.2f}, "
            f"seconds={self.seconds:.1f})"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the ELBO of the last stage with its standard error.

        Args:
            ax: Where to draw; None for a new figure.

        Returns:
            The axes.
        """
        from pyro_nf.plot import elbo_trace  # matplotlib is an extra

        return elbo_trace(self.losses, self.elbo, self.elbo_se, ax=ax)
