"""The one numerical inverse: a bracketed Newton iteration on increasing functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf._tracing import host_can_read, is_traced
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements

Increasing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(x, params) -> (y, log dy/dx)``, elementwise in x ``(n,)``, with params ``(rows, n)``."""


class ConvergenceError(ArithmeticError):
    """A numerical inverse that was not found within its budget."""


@dataclass(frozen=True)
class Root:
    """How hard a numerical inverse is searched for.

    Args:
        iterations: The largest number of evaluations of the forward map. On a CPU the search
            stops as soon as all is found (6 to 12 evaluations are typical) and goes on for the
            unfinished elements alone; elsewhere, and under ``vmap``, it always takes them all,
            so that the host never waits.
        tolerance: An element is found when its next step is below ``tolerance * (1 + |x|)``, or
            its residual below ``tolerance * |y| / 4``. None is 4 machine epsilons.

    Raises:
        TypeError, ValueError: If an option is not positive.
    """

    iterations: int = 100
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        positive_int("Root", "iterations", self.iterations)
        if self.tolerance is not None:
            positive_float("Root", "tolerance", self.tolerance)


def check_root(owner: str, root: Any) -> Root:
    """Returns ``root`` if it is a :class:`Root`, else raises."""
    if isinstance(root, Root):
        return root
    raise TypeError(
        f"{owner} got root={root!r}. Pass pyro_nf.bijections.Root(iterations=...), say."
    )


class NumericallyInverted(ScalarBijection):
    """An increasing scalar bijection whose inverse is a numerical root (abstract)."""

    root: Root

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``x`` by bracketing and Newton steps; gradients by implicit functions."""
        flat, raw, dtype = flat_elements(self, y, params)
        x, ladj = invert(self.forward, flat, raw, self.root, type(self).__name__)
        return x.view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)

    def inverse_at(self, x: Tensor, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse with its derivatives where its value x is known: there is no search."""
        flat, raw, dtype = flat_elements(self, y, params)
        known = x.detach().reshape(flat.shape).to(flat.dtype)
        root = implicit(self.forward, known, flat, raw)
        ladj = -self.forward(root, raw)[1]
        return root.view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)


def invert(
    function: Increasing, y: Tensor, params: Tensor, root: Root, owner: str
) -> tuple[Tensor, Tensor]:
    """Inverts an increasing function of the real line onto itself, elementwise.

    The root is found without a graph; its derivatives are those of the implicit function.

    Args:
        function: The increasing function and the logarithm of its slope.
        y: Shape ``(n,)``.
        params: Shape ``(rows, n)``.
        root: Budget and tolerance.
        owner: Who asks, for the message.

    Returns:
        x and log|dx/dy|, both ``(n,)``; NaN where y or a parameter is not finite.

    Raises:
        ConvergenceError: If an element is not found within the budget. Where no exception can be
            raised (``vmap``, an accelerator's queue), the element is NaN.
    """
    x = solve(function, y.detach(), params.detach(), root, owner)
    x = implicit(function, x, y, params)
    return x, -function(x, params)[1]


def implicit(function: Increasing, x: Tensor, y: Tensor, params: Tensor) -> Tensor:
    r"""Gives a known root x of f(x; θ) = y its derivatives with respect to y and θ.

    They come from Newton's own step at the root,

    .. math:: x - \frac{f(x; \theta) - y}{f'(x; \theta)},

    whose first derivative is that of the implicit function theorem; a second step makes those up
    to the third right. It is plain arithmetic, so every tracer follows it. What the residual is
    worth at the root, rounding, does not enter: x keeps its value.

    Args:
        function: The increasing function and the logarithm of its slope.
        x: The root, without a graph, ``(n,)``.
        y: Shape ``(n,)``.
        params: Shape ``(rows, n)``.

    Returns:
        x, with a graph if one is recorded.
    """
    recorded = torch.is_grad_enabled() and (y.requires_grad or params.requires_grad)
    if not (recorded or is_traced()):
        return x
    # On a plateau the slope may underflow; its inverse may not overflow, for 0 · inf is NaN.
    least = 0.5 * math.log(torch.finfo(y.dtype).tiny)
    for _ in range(2):
        value, log_slope = function(x, params)
        residual = (value - value.detach()) - (y - y.detach())
        x = x - residual * torch.exp(-log_slope.clamp(min=least))
    return x


_BARE = 8  # Newton steps before a bracket is kept


class _Search(NamedTuple):
    """The state of a search, all ``(n,)``: a point, its bracket, the next blind step.

    ``crept`` says whether the last step was one just past a root that rounding hides.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    reach: Tensor
    residual: Tensor
    crept: Tensor
    done: Tensor


@torch.compiler.disable  # the search is eager, and stops early, under a compiler too
@torch.no_grad()
def solve(function: Increasing, y: Tensor, params: Tensor, root: Root, owner: str) -> Tensor:
    """Solves ``function(x, params) = y`` for x ``(n,)``, without a graph.

    A few bare Newton steps from x = y, where the host can see whom they serve; for the others
    Newton steps that must stay inside a bracket and quarter the residual; else a step
    just past the root that Newton's step expects, if that is near; else the bracket is halved, or,
    while it is open, extended by steps that grow ever faster.
    """
    tolerance = root.tolerance or 4 * torch.finfo(y.dtype).eps
    hopeless = ~(y.isfinite() & params.isfinite().all(0))
    start = torch.where(hopeless, 0, y)
    if not host_can_read(y):
        search = _begin(start, hopeless)
        # Without values, on the meta device, one step shows every operation.
        for _ in range(1 if y.is_meta else root.iterations):
            search = _advance(function, search, y, params, tolerance)
        return torch.where(hopeless | ~search.done, torch.nan, search.x)
    bare = min(_BARE, root.iterations // 2)
    x, found = _newton(function, start, hopeless, y, params, tolerance, bare)
    left = (~found).nonzero().squeeze(1)
    if len(left):
        search = _begin(start[left], torch.zeros_like(left, dtype=torch.bool))
        search = _narrowing(
            function, search, y[left], params[:, left], root.iterations - bare, tolerance
        )
        if not bool(search.done.all()):
            raise ConvergenceError(_message(owner, search, len(y), root))
        x = x.index_copy(0, left, search.x)
    return torch.where(hopeless, torch.nan, x)


def _begin(start: Tensor, done: Tensor) -> _Search:
    infinite = torch.full_like(start, torch.inf)
    crept = torch.zeros_like(done)
    return _Search(start, -infinite, infinite, 1 + start.abs(), infinite, crept, done)


def _newton(
    function: Increasing,
    start: Tensor,
    found: Tensor,
    y: Tensor,
    params: Tensor,
    tolerance: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """A few Newton steps without a bracket, all that most elements need: x, and where it is found.

    In small batches the time goes into the number of operations, and these steps have a fifth of
    the bracketed ones'. A tiny step counts only beside a small residual: where a map is so steep
    that it is not, the bracket decides. Steps that are small and shrink no more are rounding's.
    """
    x, reach, before = start, 1 + start.abs(), torch.full_like(start, torch.inf)
    for count in range(steps):
        value, log_slope = function(x, params)
        residual = value - y
        step = (residual * torch.exp(-log_slope)).clamp(-reach, reach)
        size = residual.abs()
        met = size <= tolerance * y.abs()
        length, unit = step.abs(), tolerance * (1 + x.abs())
        still = (length <= unit) | ((length <= 16 * unit) & (size > 0.5 * before))
        still &= size <= math.sqrt(tolerance) * (1 + y.abs())
        x = torch.where(found | met, x, x - step)
        found, before = found | met | still, size
        if count > 1 and bool(found.all()):
            break
    return x, found


def _advance(
    function: Increasing, at: _Search, y: Tensor, params: Tensor, tolerance: float
) -> _Search:
    """One evaluation and one step, for every element that is not done."""
    value, log_slope = function(at.x, params)
    # Far out a map may overflow, and inf - inf is NaN: that is beyond y, on the side of x.
    residual = torch.where(value.isnan(), at.x.sign() * torch.inf, value - y)
    lower = torch.where(residual < 0, at.x, at.lower)
    upper = torch.where(residual > 0, at.x, at.upper)
    is_open = (lower == -torch.inf) | (upper == torch.inf)

    newton = at.x - residual * torch.exp(-log_slope)
    shrunk = residual.abs() <= 0.25 * at.residual.abs()
    near = ~is_open | ((newton - at.x).abs() <= at.reach)
    # Both ends count: a step too small to move x ends the search.
    sound = shrunk & near & (newton >= lower) & (newton <= upper) & newton.isfinite()
    most = 0.25 * torch.finfo(y.dtype).max
    extended = (at.x - residual.sign() * at.reach).clamp(-most, most)
    blind = torch.where(is_open, extended, _middle(lower, upper))
    # At the root, rounding keeps the residual from shrinking: a step just past it closes a bracket
    # as narrow as the rounding. Only there, and never twice in a row: brackets halve whatever
    # happens.
    step, scale = (newton - at.x).abs(), 1 + at.x.abs()
    past = 4 * step + 0.5 * tolerance * scale
    room = torch.where(is_open, at.reach, upper - lower).clamp(max=most)
    hidden = (step <= math.sqrt(tolerance) * scale) & (past < 0.25 * room)
    creeps = ~sound & ~at.crept & hidden
    blind = torch.where(creeps, at.x - residual.sign() * past, blind)
    x = torch.where(sound, newton, blind)

    met = residual.abs() <= 0.25 * tolerance * y.abs()
    x = torch.where(at.done | met, at.x, x)
    # A step that the largest number cuts short finds nothing.
    found = (sound | creeps | ~is_open) & ((x - at.x).abs() <= tolerance * scale)
    done = at.done | met | found
    # 1, 2, 6, 42, 1806, ... times the first: any magnitude is reached in some ten steps.
    reach = torch.where(is_open, at.reach * (1 + at.reach / (1 + y.abs())), at.reach)
    return _Search(x, lower, upper, reach, residual, creeps, done)


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    """Halves a bracket, or its logarithm where it spans orders of magnitude."""
    wide = upper - lower > 4 * (1 + torch.minimum(lower.abs(), upper.abs()))
    low, high = (edge.sign() * edge.abs().log1p() for edge in (lower, upper))
    log_middle = 0.5 * (low + high)
    return torch.where(
        wide, log_middle.sign() * log_middle.abs().expm1(), 0.5 * lower + 0.5 * upper
    )


def _narrowing(
    function: Increasing,
    search: _Search,
    y: Tensor,
    params: Tensor,
    iterations: int,
    tolerance: float,
) -> _Search:
    """Steps until all is done; once half of the elements are, goes on with the others alone."""
    whole, active = search, None  # None: all elements
    for _ in range(iterations):
        search = _advance(function, search, y, params, tolerance)
        left = int(search.done.numel() - search.done.sum())
        if left == 0:
            break
        if left <= search.done.numel() // 2:
            whole = _merged(whole, active, search)
            keep = (~search.done).nonzero().squeeze(1)
            active = keep if active is None else active[keep]
            search = _Search(*(part[keep] for part in search))
            y, params = y[keep], params[:, keep]
    return _merged(whole, active, search)


def _merged(whole: _Search, active: Tensor | None, part: _Search) -> _Search:
    if active is None:
        return part
    return _Search(*(a.index_copy(0, active, b) for a, b in zip(whole, part, strict=True)))


_REMEDY = "Pass root=Root(iterations=...) with a larger budget, or compute in float64."


def _message(owner: str, search: _Search, total: int, root: Root) -> str:
    left = ~search.done
    return (
        f"{owner} found no inverse for {int(left.sum())} of {total} values within "
        f"{root.iterations} evaluations: the largest residual is "
        f"{float(search.residual[left].abs().max()):.3g}. {_REMEDY}"
    )
