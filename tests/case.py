"""A case of the registry: a way of building a public layer or flow, and what is true of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import transforms as T  # noqa: N812
from pyro_nf.distributions import DiagonalNormal, UniformBox

# Kept away from relu's kink, where autograd's Jacobian has two right values.
SMOOTH = {"hidden_dims": (6,), "activation": "silu"}

Directions = Literal["both", "forward", "inverse", "neither"]


@dataclass(frozen=True)
class Case:
    """A layer and what is true of it.

    Attributes:
        name: The test's id.
        build: Creates the layer.
        covers: Public names that this case exercises.
        input_dim: Size of the base side's last dimension.
        context_dim: Size of the context; 0 for none.
        fresh_is_identity: Whether a fresh layer maps every x to itself (within 1e-6).
        compiles: The directions that compile without a graph break.
        maps: The directions that map under ``torch.vmap``.
        largest_scale: The largest perturbation of the parameters at which float64 can invert the
            map at all.
        inverse_error: How far a round trip may miss beyond rounding, in float64.
        far: Whether inputs to ±100 are in the domain.
        event: Shape of the base side's events; None for vectors of ``input_dim``.
        solver_error: How far two results may differ because a solver found each step by step.
        waits: Whether the host looks at values on an accelerator, as solvers do at each step.
        traceable: Whether ``torch.func`` and forward mode pass through; if not, they raise.
        bfloat16: Whether the layer computes in bfloat16; if not, it raises a ``TypeError``.
    """

    name: str
    build: Callable[[], T.FlowTransform]
    covers: tuple[str, ...]
    input_dim: int = 4
    context_dim: int = 0
    fresh_is_identity: bool = True
    compiles: Directions = "both"
    maps: Directions = "both"
    largest_scale: float = 3.0
    inverse_error: float = 1e-8
    solver_error: float = 0.0
    waits: bool = False
    traceable: bool = True
    bfloat16: bool = True
    far: bool = True
    event: tuple[int, ...] | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event on the base side."""
        return self.event or (self.input_dim,)

    @property
    def slack(self) -> dict[str, float]:
        """Tolerances of ``assert_close``: its own, unless a solver's error is larger."""
        error = self.solver_error
        return {"rtol": error, "atol": error} if error else {}


def wired(
    name: str,
    bijection: B.ScalarBijection,
    *,
    every: Literal["wiring", "combination"] = "wiring",
    **facts: Any,
) -> list[Case]:
    """One case for each wiring of a scalar bijection, context in turn; or all combinations."""
    public = type(bijection).__name__
    wirings: dict[str, tuple[str, Callable[..., T.FlowTransform]]] = {
        "elementwise": ("Elementwise", partial(T.Elementwise, bijection, 4)),
        "coupling": ("Coupling", partial(T.Coupling, bijection, 4)),
        "maf": ("Autoregressive", partial(T.Autoregressive, bijection, 4, fast="log_prob")),
        "iaf": (
            "Autoregressive",
            partial(T.Autoregressive, bijection, 4, fast="sample", order=[2, 0, 3, 1]),
        ),
    }
    cases = []
    for wiring, (cls, make) in wirings.items():
        in_turn = 3 if wiring in ("coupling", "iaf") else 0
        for c in (0, 3) if every == "combination" else (in_turn,):
            build = partial(make, context_dim=c, **SMOOTH)
            label = f"{wiring}-{name}" + ("-context" if c else "")
            cases.append(Case(label, build, (cls, public), 4, c, **facts))
    return cases


def build(
    case: Case, *, scale: float | None = None, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """The case's layer in ``dtype``, its parameters drawn from ``scale``·N(0, 1) (None: fresh)."""
    torch.manual_seed(0)
    layer = case.build().to(dtype)
    if scale is not None:
        perturb(layer, scale)
    return layer


def perturb(module: nn.Module, scale: float, seed: int = 1) -> None:
    """Draws every parameter from ``scale``·N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise)


def inputs(
    case: Case, batch: tuple[int, ...] = (5,), dtype: torch.dtype = torch.float64, seed: int = 2
) -> tuple[Tensor, Tensor | None]:
    """Base-side values and a context, if the case takes one, of one batch shape."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *event: torch.randn(*batch, *event, generator=generator, dtype=torch.float64)  # noqa: E731
    x = draw(*case.event_shape).to(dtype)
    return x, draw(case.context_dim).to(dtype) if case.context_dim else None


def norms(x: Tensor, case: Case) -> Tensor:
    """The largest absolute number of each event on the base side."""
    return x.abs().flatten(-len(case.event_shape)).amax(-1)


def base_of(case: Case) -> tuple[nn.Module, list[T.FlowTransform]]:
    """A base for the case's layer, and what brings its draws into the layer's shape."""
    if not case.far:  # the base must have the layer's domain, which a circle bounds
        return UniformBox(case.input_dim, -math.pi, math.pi), []
    if case.event is None:
        return DiagonalNormal(case.input_dim), []
    size = math.prod(case.event)
    return DiagonalNormal(size), [T.Reshape((size,), case.event)]
