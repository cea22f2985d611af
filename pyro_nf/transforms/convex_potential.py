"""The gradient map of a strongly convex potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf._precision import as_parameters, narrow, widen, without_autocast
from pyro_nf.bijections import Root
from pyro_nf.nn._convex import ConvexValues, Hessian, activations, gradient_at
from pyro_nf.nn.convex import ConvexMLP
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._convex.inverse import SolverName, invert
from pyro_nf.transforms._convex.log_det import exact_log_det, stochastic_log_det

LogDet = Literal["auto", "exact", "lanczos"]

_LARGEST_DENSE = 64  # dimensions up to which matrices are formed by default


class ConvexPotential(FlowTransform):
    r"""A gradient map, :math:`v = ∇F(u)` of a strongly convex F: a map of optimal transport.

    By Brenier's theorem there is one gradient of a convex function that takes one density to
    another, and it is the map that moves mass the least, :math:`E|v - u|^2`. F is a
    :class:`~pyro_nf.nn.ConvexMLP`. The map is monotone, :math:`⟨∇F(u) - ∇F(u'), u - u'⟩ > 0`, its
    Jacobian is the Hessian of F, symmetric and positive definite, and its inverse exists
    everywhere and is the minimiser of a strictly convex function,

    .. math:: u = \operatorname{argmin}_u F(u) - v^\top u, \qquad
        \log\left|\det \frac{∂v}{∂u}\right| = \log\det ∇^2 F(u).

    ``fast`` names the direction of the gradient map. ``fast="log_prob"`` takes the data to the
    base by it, u = y; ``fast="sample"`` the base to the data, u = x. The two are each other's
    inverse. Gradients are not closed under composition: a chain of layers is more than one.

    **Log-determinant.** "exact" forms the Hessians and factorises them. "lanczos" only multiplies
    by them: a random estimate by Lanczos quadrature with an unbiased gradient by conjugate
    gradients, for training in many dimensions. Its value has a bias that falls geometrically with
    ``lanczos_steps`` and a variance that falls with ``probes``: it is an estimate of the
    log-likelihood, not a bound. "auto" is exact for D ≤ 64 and, in evaluation, always; "lanczos"
    only while training with D > 64.

    **Inverse.** "newton" is the damped Newton method on formed Hessians, 5 to 15 evaluations.
    "lbfgs" keeps a history of gradients instead, takes tens to hundreds of evaluations, and ends
    with two Newton steps by conjugate gradients. "auto" is Newton's for D ≤ 64. Both search each
    row by itself, and both have the implicit function theorem's gradients for the input, the
    parameters and the context.

    Cost of a row, with hidden layers of width H: the gradient map is O(DH + H²), about two
    evaluations of a network; the exact log-determinant adds O(D² H + D H² + D³), a Lanczos
    estimate O(DH + H²) for every step of its own and of conjugate gradients. The other direction
    multiplies this by the number of evaluations.

    Args:
        input_dim: Number of dimensions D.
        fast: The direction of the gradient map, "log_prob" (data -> base) or "sample".
        hidden_dims: Widths of the potential's hidden layers, at least one.
        context_dim: Size of the context; 0 for none.
        sharpness: How narrow the kinks of the potential's units are (see ``ConvexMLP``).
        log_det: "auto", "exact" or "lanczos".
        solver: "auto", "newton" or "lbfgs".
        probes: Random vectors for each row of a Lanczos estimate.
        lanczos_steps: Steps for each of them.
        root: Budget and tolerance of the inverse; None for 100 (Newton) or 500 (L-BFGS)
            evaluations. Two more Newton steps follow, to about all digits of the dtype.

    Raises:
        ValueError: If an option is unknown or a size out of range.
        TypeError: If a size is no integer, or ``root`` no ``Root``.

    References:
        - Convex potential flows: universal probability distributions with optimal transport and
          convex optimization (Huang et al., 2021), arXiv:2012.05942.
        - Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (Ubaru et al., 2017),
          SIAM Journal on Matrix Analysis and Applications 38(4).

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import ConvexPotential
        >>> layer = ConvexPotential(3, fast="log_prob", hidden_dims=(16,))
        >>> y = torch.linspace(-2, 2, 15).reshape(5, 3)
        >>> x, ladj = layer.inverse_and_ladj(y)
        >>> x.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
        >>> torch.allclose(layer(x), y, atol=1e-4)
        True
    """

    input_dim: int

    def __init__(
        self,
        input_dim: int,
        *,
        fast: Literal["log_prob", "sample"],
        hidden_dims: Sequence[int] = (64, 64),
        context_dim: int = 0,
        sharpness: float = 8.0,
        log_det: LogDet = "auto",
        solver: Literal["auto", "newton", "lbfgs"] = "auto",
        probes: int = 1,
        lanczos_steps: int = 20,
        root: Root | None = None,
    ) -> None:
        super().__init__()
        owner = "ConvexPotential"
        self.fast: Literal["log_prob", "sample"] = choice(
            owner, "fast", fast, ("log_prob", "sample")
        )
        self.log_det: LogDet = choice(owner, "log_det", log_det, ("auto", "exact", "lanczos"))
        choice(owner, "solver", solver, ("auto", "newton", "lbfgs"))
        self.probes = positive_int(owner, "probes", probes)
        self.lanczos_steps = positive_int(owner, "lanczos_steps", lanczos_steps)
        if root is not None and not isinstance(root, Root):
            raise TypeError(
                f"{owner} got root={root!r}. Pass pyro_nf.bijections.Root(iterations=...) or None."
            )
        self.root = root
        self.potential = ConvexMLP(
            input_dim, hidden_dims, context_dim=context_dim, sharpness=sharpness
        )
        self.input_dim, self.context_dim = self.potential.input_dim, self.potential.context_dim
        dense = self.input_dim <= _LARGEST_DENSE
        by_size: SolverName = "newton" if dense else "lbfgs"
        self.solver: SolverName = by_size if solver == "auto" else solver

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data: the gradient map if ``fast="sample"``, else a minimisation."""
        return (self._ascend if self.fast == "sample" else self._minimise)(x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base: the gradient map if ``fast="log_prob"``, else a minimisation."""
        return (self._ascend if self.fast == "log_prob" else self._minimise)(y, context, "y")

    def _ascend(self, u: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The gradient map."""
        h = features_first(self, u, context, name)  # (D, *batch)
        with without_autocast(h):
            values = self._values(context, h)
            columns = widen(h).reshape(self.input_dim, -1)
            v, hessian = gradient_at(values, columns, activations(values, columns))
            return _as_pass(h, v, self._log_det(hessian, columns))

    def _minimise(self, v: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The inverse of the gradient map."""
        h = features_first(self, v, context, name)  # (D, *batch)
        with without_autocast(h):
            values = self._values(context, h)
            columns = widen(h).reshape(self.input_dim, -1)
            u = invert(values, columns, self.solver, self.root, type(self).__name__)
            hessian = gradient_at(values, u, activations(values, u))[1]
            return _as_pass(h, u, -self._log_det(hessian, u))

    def _values(self, context: Tensor | None, h: Tensor) -> ConvexValues:
        """The potential's numbers for a context."""
        return self.potential.values(as_parameters(context, self.potential), h.shape[1:])

    def _log_det(self, hessian: Hessian, columns: Tensor) -> Tensor:
        """The log-determinant of each Hessian, ``(N,)``."""
        many = self.input_dim > _LARGEST_DENSE
        if self.log_det == "lanczos" or (self.log_det == "auto" and many and self.training):
            return stochastic_log_det(
                hessian, columns, probes=self.probes, steps=self.lanczos_steps
            )
        return exact_log_det(hessian)

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction of the gradient map."""
        return "forward" if self.fast == "sample" else "inverse"

    @property
    def sign(self) -> int:
        """+1 for one dimension, where the map increases."""
        return 1 if self.input_dim == 1 else super().sign

    def extra_repr(self) -> str:
        """The sizes and the options, for ``repr``."""
        return (
            f"{super().extra_repr()}, fast={self.fast!r}, log_det={self.log_det!r}, "
            f"solver={self.solver!r}"
        )


def _as_pass(h: Tensor, columns: Tensor, ladj: Tensor) -> tuple[Tensor, Tensor]:
    """The result and the log-determinant in the shapes of the contract and the input's dtype."""
    result = narrow(columns, h.dtype).reshape(h.shape)
    return features_last(result), narrow(ladj, h.dtype).reshape(h.shape[1:])
