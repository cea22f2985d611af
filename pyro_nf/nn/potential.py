"""Gradient fields: the velocity is the gradient of a potential, its divergence a closed form."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.nn._linear import Linear, spread
from pyro_nf.nn._residual_trace import product_norms
from pyro_nf.nn.field import Field, Values


class PotentialField(Field):
    r"""The gradient field f = ∇_z Φ of a potential Φ(t, z, c): what optimal transport flows along.

    With s = (z, t) and a residual network N of width m and ``layers`` = M + 1 layers,

    .. math::
        \Phi &= w^\top N(s) + \tfrac12 s^\top A^\top \operatorname{diag}(d) A s + (b + B c)^\top s
        \\ u_0 &= \sigma(K_0 s + b_0 + V c), \qquad
        u_i = u_{i-1} + h \sigma(K_i u_{i-1} + b_i), \qquad N = u_M, \quad h = 1/M

    and σ(x) = log(2 cosh x), so that σ' = tanh. The quadratic is symmetric of low rank and, by the
    signs of d, may be indefinite, which is more general than the paper's AᵀA and lets it start
    at 0: w, d, b and B are 0 in a fresh field, which is then 0 everywhere. Φ has no constant,
    because no velocity depends on it.

    **Sign and time.** The paper's time runs from the data to the base, with velocity -∇Φ; ours
    from the base to the data. Reversing the time negates a velocity, so the paper's Φ(z, T - t) is
    our Φ(z, t), with velocity +∇Φ and the same regulariser.

    **The side rate "hjb"** is |∂_tΦ + ½‖∇_zΦ‖²|. Transport of least kinetic energy moves each
    point at a constant velocity. Along dz/dt = ∇Φ the acceleration is
    ∂_t∇Φ + (∇²Φ) ∇Φ = ∇(∂_tΦ + ½‖∇Φ‖²), and it vanishes where the Hamilton-Jacobi-Bellman
    equation ∂_tΦ + ½‖∇Φ‖² = 0 holds. The rate is the residual of that equation; penalising its
    integral straightens the paths, which then take few steps to solve. Only it sees the part of b
    that belongs to t.

    **Cost** for one state: O(m(D + r) + m²M) for the velocity, and as much for each product with
    its Jacobian, the Hessian of Φ; O(m² min(D, 2m) M) for the divergence, by the paper's recursion
    for the trace or, where D > 2m, by one on m×m Gram matrices. Nothing calls autograd: all are
    plain operations, any number of times differentiable.

    Args:
        input_dim: Number D of dimensions.
        hidden_dim: Width m of the network.
        layers: Number M + 1 of its layers: an opening one and M residual ones.
        rank: Rank r of the quadratic, at most D + 1; the smaller of 10 and D + 1 if None.
        context_dim: Size of the context c; 0 for none.

    Raises:
        TypeError: If a size is no integer.
        ValueError: If a size is out of range.

    References:
        OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport (Onken et
        al., 2020), arXiv:2006.00104.

    Examples:
        >>> import torch
        >>> from pyro_nf.nn import PotentialField
        >>> field, t = PotentialField(2, context_dim=3), torch.tensor(0.5)
        >>> field(t, torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 2])
        >>> field.potential(t, torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    closed_divergence = True
    side_rates = ("hjb",)

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 32,
        *,
        layers: int = 2,
        rank: int | None = None,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        owner = "PotentialField"
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        self.hidden_dim = positive_int(owner, "hidden_dim", hidden_dim)
        self.layers = positive_int(owner, "layers", layers)
        size = self.input_dim + 1
        self.rank = min(10, size) if rank is None else positive_int(owner, "rank", rank)
        if self.rank > size:
            raise ValueError(
                f"{owner} got rank={self.rank} for the {size} coordinates of (z, t). "
                f"Pass at most {size}."
            )
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        self.step = 1 / max(1, self.layers - 1)
        self.opening = Linear(size, self.hidden_dim, context_dim=self.context_dim)
        self.residual = nn.ModuleList(
            Linear(self.hidden_dim, self.hidden_dim) for _ in range(self.layers - 1)
        )
        self.output = nn.Parameter(torch.zeros(self.hidden_dim))
        self.factor = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.rank, size)))
        self.curvature = nn.Parameter(torch.zeros(self.rank))
        self.slope = nn.Parameter(torch.zeros(size))
        self.context_slope = (
            nn.Parameter(torch.zeros(size, self.context_dim)) if self.context_dim else None
        )

    def read(self, context: Tensor | None, batch: torch.Size) -> Values:
        """Reads the weights and computes the context's terms and what the traces have in common.

        The rows of A stand below those of K_0, as units whose activation is ½x²: so the quadratic
        takes part in the products of the opening layer.
        """
        opening, factor, curvature = self.opening.values(context), self.factor, self.curvature
        shift, slope = opening.shift[:, None], self.slope[:, None]
        if self.context_slope is not None and context is not None:
            shift = spread(opening.shift, batch)
            term = torch.tensordot(self.context_slope, context, ([1], [-1]))  # (D + 1, *batch)
            slope = slope + spread(term, batch)
        units = torch.cat([opening.weight, factor])  # (m + r, D + 1)
        squares = units[:, :-1].square().sum(1)
        values = {
            "units": units[:, :-1],
            "units.time": units[:, -1:],
            "units.shift": nn.functional.pad(shift, (0, 0, 0, self.rank)),
            "output": self.output[:, None],
            "curvature": curvature[:, None],
            "slope": slope[:-1],
            "slope.time": slope[-1],
            "squares": squares[: self.hidden_dim],
            "trace": squares[self.hidden_dim :] @ curvature,
        }
        for i, layer in enumerate(self.residual, 1):
            weight, bias = cast("Linear", layer).values()
            values |= {f"{i}.weight": weight, f"{i}.bias": bias[:, None]}
        return values

    def potential(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates Φ on rows.

        Args:
            t: The time, without dimensions.
            z: Shape ``(*batch, input_dim)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts with that of z.

        Returns:
            Φ, shape ``(*batch,)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        columns, values, batch = self.columns(z, context)
        linears, roots = self._linears(values, t, columns)
        units = _log_2cosh(linears[0]) + self.step * sum(map(_log_2cosh, linears[1:]))
        network = (values["output"] * units).sum(0)
        quadratic = (values["curvature"] * roots.square()).sum(0) / 2
        linear = (values["slope"] * columns).sum(0) + values["slope.time"] * t
        return (network + quadratic + linear).reshape(batch)

    def velocity(self, values: Values, t: Tensor, z: Tensor) -> Tensor:
        """Evaluates ∇_z Φ: the network forth and back."""
        return self._gradient(values, self._sweep(values, t, z))

    def with_products(
        self, values: Values, t: Tensor, z: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluates the field with K tangents through the network, forth and back."""
        sweep, hidden, h = self._sweep(values, t, z), self.hidden_dim, self.step
        units = torch.tensordot(values["units"], directions, 1)  # (m + r, K, columns)
        linears = [units[:hidden]]
        features = sweep.slopes[0].unsqueeze(1) * linears[0]
        for i in range(1, self.layers):
            if i > 1:
                slope = sweep.slopes[i - 1].unsqueeze(1)
                features = torch.addcmul(features, slope, linears[-1], value=h)
            linears.append(torch.tensordot(values[f"{i}.weight"], features, 1))
        adjoint = torch.zeros_like(linears[-1])
        for i in range(self.layers - 1, 0, -1):
            inner = sweep.tangent(i, linears[i], adjoint)
            adjoint = adjoint + h * torch.tensordot(values[f"{i}.weight"].t(), inner, 1)
        inner = sweep.tangent(0, linears[0], adjoint)  # (m, K, columns)
        quadratic = values["curvature"].unsqueeze(1) * units[hidden:]
        quadratic = quadratic.expand(*quadratic.shape[:2], inner.shape[2])
        products = torch.tensordot(values["units"].t(), torch.cat([inner, quadratic]), 1)
        return self._gradient(values, sweep), products

    def with_divergence(self, values: Values, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the field and the Laplacian of Φ in closed form."""
        sweep = self._sweep(values, t, z)
        trace = values["trace"] + values["squares"] @ sweep.bend(0)
        opening = values["units"][: self.hidden_dim]
        weights = [values[f"{i}.weight"] for i in range(1, self.layers)]
        norms = product_norms(opening, weights, sweep.slopes, self.step)
        for i, norm in enumerate(norms, 1):
            trace = trace + self.step * (sweep.bend(i) * norm).sum(0)
        return self._gradient(values, sweep), trace

    def side_rate(self, name: str, values: Values, t: Tensor, z: Tensor) -> Tensor:
        """Evaluates "hjb", the residual |∂_tΦ + ½‖∇_zΦ‖²|."""
        if name != "hjb":
            raise ValueError(f"PotentialField got name={name!r}. Pass 'hjb'.")
        sweep = self._sweep(values, t, z)
        by_time = values["slope.time"] + values["units.time"].squeeze(1) @ sweep.inner
        return (by_time + self._gradient(values, sweep).square().sum(0) / 2).abs()

    def _linears(self, values: Values, t: Tensor, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the layers' σ are applied to, each ``(m, columns)``, and A s ``(r, columns)``."""
        shift = torch.addcmul(values["units.shift"], values["units.time"], t)
        units = torch.addmm(shift, values["units"], z)
        opening, roots = units.split((self.hidden_dim, self.rank))
        linears, features = [opening], _log_2cosh(opening)
        for i in range(1, self.layers):
            if i > 1:
                features = features + self.step * _log_2cosh(linears[-1])
            linears.append(torch.addmm(values[f"{i}.bias"], values[f"{i}.weight"], features))
        return linears, roots

    def _sweep(self, values: Values, t: Tensor, z: Tensor) -> _Sweep:
        linears, roots = self._linears(values, t, z)
        slopes = [torch.tanh(linear) for linear in linears]
        adjoints = [values["output"]]
        for i in range(self.layers - 1, 0, -1):
            inner, weight = slopes[i] * adjoints[0], values[f"{i}.weight"]
            adjoints.insert(0, torch.addmm(adjoints[0], weight.t(), inner, alpha=self.step))
        inner = torch.cat([slopes[0] * adjoints[0], values["curvature"] * roots])
        return _Sweep(slopes, adjoints, inner)

    def _gradient(self, values: Values, sweep: _Sweep) -> Tensor:
        return torch.addmm(values["slope"], values["units"].t(), sweep.inner)

    def extra_repr(self) -> str:
        """Shows the sizes."""
        return (
            f"{self.input_dim}, {self.hidden_dim}, layers={self.layers}, rank={self.rank}, "
            f"context_dim={self.context_dim}"
        )


class _Sweep(NamedTuple):
    """What a pass forth and back through the network leaves.

    Attributes:
        slopes: σ' of each layer, ``(m, columns)``.
        adjoints: The derivatives of wᵀN by each u_i, ``(m, columns)``; the last is w, ``(m, 1)``.
        inner: The derivatives of Φ by K_0 s and A s, ``(m + r, columns)``.
    """

    slopes: list[Tensor]
    adjoints: list[Tensor]
    inner: Tensor

    def bend(self, i: int) -> Tensor:
        """σ'' of layer i times the derivative by what it adds to."""
        return (1 - self.slopes[i].square()) * self.adjoints[i]

    def tangent(self, i: int, linear: Tensor, adjoint: Tensor) -> Tensor:
        """The change of σ'_i ∘ adjoint_i, for changes ``(m, K, columns)`` of both."""
        bent = self.bend(i).unsqueeze(1) * linear
        return torch.addcmul(bent, self.slopes[i].unsqueeze(1), adjoint)


def _log_2cosh(x: Tensor) -> Tensor:
    # Not |x| + log1p(exp(-2|x|)), whose second derivative at 0 autograd takes for 0. Beyond the
    # threshold softplus is the identity in float64 too.
    return nn.functional.softplus(2 * x, threshold=40) - x
