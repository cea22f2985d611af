"""What a training step of a continuous layer costs, against zuko's and FFJORD's recipe.

    python -m benchmarks.cnf [--quick] [--repeats 9]

One field everywhere, a perceptron of tanh units (64, 64) with the time as one more input of each
layer: ours in columns, the peers' a module on rows with the same numbers. That all solve the same
equation to 1e-4 is checked first, in float64. The step is one of a fused Adam on the negative
log-likelihood, from data to base, dopri5 at rtol = atol = 1e-5, float32, one thread; its learning
rate is 0, which costs the same and keeps the fields equal.

"zuko" is its ``FreeFormJacobianTransform``, whose steps heed the log-determinant 100 times less.
"FFJORD" is the recipe of its reference code on today's torchdiffeq: ``odeint_adjoint`` of the pair
of state and log-determinant, the trace by one product with noise or by D of them. The row with
"concatsquash" has FFJORD's layers, their scales near 1: nearly the same equation.

All are interleaved in one process: medians of CPU milliseconds, and their ratio to zuko with
Hutchinson's estimate. The error is the root mean square of that of the log-determinant, in nats a
row. Memory: ``python -m benchmarks.cnf_memory``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
import zuko
from torch import Tensor, nn
from torch.distributions import Distribution

from benchmarks._machine import describe
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import Continuous

Distribution.set_default_validate_args(True)  # importing zuko turned it off for the process

SIZES = ((2, 128), (6, 1024), (43, 128))
HIDDEN, TOLERANCE, SEED = 64, 1e-5, 0
BASELINE, OTHER_FIELD = "zuko, Hutchinson", "ours, concatsquash"
SLOW = ("zuko, exact", "FFJORD, exact")

Solve = Callable[[Tensor], tuple[Tensor, Tensor]]


class RowField(nn.Module):
    """The field as the peers write it: on rows, the time concatenated to each layer's input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        sizes = (size, HIDDEN, HIDDEN, size)
        self.layers = nn.ModuleList(
            nn.Linear(inputs + 1, outputs)
            for inputs, outputs in zip(sizes, sizes[1:], strict=False)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)  # a field that is worth some steps
        self.calls = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The velocity."""
        self.calls += 1
        time = t.expand(len(x), 1)
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(torch.cat([x, time], 1)))
        return self.layers[-1](torch.cat([x, time], 1))


class WithTrace(nn.Module):
    """Velocity and divergence as FFJORD computes them."""

    def __init__(self, field: RowField, *, exact: bool) -> None:
        super().__init__()
        self.field, self.exact = field, exact
        self.noise = torch.empty(0)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The rates of the pair."""
        with torch.enable_grad():
            x = state[0].requires_grad_()
            velocity = self.field(t, x)
            if self.exact:
                rows = [self._product(one.sum(), x) for one in velocity.unbind(1)]
                return velocity, sum(row[:, i] for i, row in enumerate(rows))
            return velocity, (self._product((velocity * self.noise).sum(), x) * self.noise).sum(1)

    def _product(self, value: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad(value, x, create_graph=True)[0]


@dataclass
class Candidate:
    """What is timed: a solve from data to base, what it trains, and what it evaluated."""

    solve: Solve
    module: nn.Module
    random: bool = False

    def evaluations(self) -> int:
        """Evaluations of the field so far in this step."""
        if isinstance(self.module, Continuous):
            return self.module.evaluations.forward + self.module.evaluations.backward
        return self.module.calls


def ours(rows: RowField, *, time: str = "concat", tolerance: float, **options: Any) -> Candidate:
    """Creates our layer with the weights of the peers' field."""
    size = rows.layers[-1].out_features
    field = FieldMLP(size, (HIDDEN, HIDDEN), time=time)
    with torch.no_grad():
        for mine, theirs in zip([*field.hidden, field.output], rows.layers, strict=True):
            mine.weight.copy_(theirs.weight[:, :-1])
            mine.time_weight.copy_(theirs.weight[:, -1])
            mine.bias.copy_(theirs.bias)
            if mine.gate_bias is not None:
                mine.gate_bias.fill_(5)
    if "steps" not in options:
        options |= {"rtol": tolerance, "atol": tolerance}
    layer = Continuous(field.to(rows.layers[0].weight.dtype), **options)
    return Candidate(layer.inverse_and_ladj, layer, options.get("trace") == "hutchinson")


def zukos(rows: RowField, *, exact: bool, tolerance: float) -> Candidate:
    """Creates zuko's transform of the field."""
    transform = zuko.transforms.FreeFormJacobianTransform(
        rows, 1.0, 0.0, rows.parameters(), tolerance, tolerance, exact
    )
    return Candidate(transform.call_and_ladj, rows, not exact)


def ffjords(rows: RowField, *, exact: bool, tolerance: float) -> Candidate:
    """Creates the recipe of FFJORD's reference code."""
    system = WithTrace(rows, exact=exact)

    def solve(y: Tensor) -> tuple[Tensor, Tensor]:
        system.noise = torch.randn_like(y)
        states, ladjs = torchdiffeq.odeint_adjoint(
            system, (y, y.new_zeros(len(y))), y.new_tensor([1.0, 0.0]), rtol=tolerance,
            atol=tolerance, method="dopri5",
        )  # fmt: skip
        return states[-1], ladjs[-1]

    return Candidate(solve, rows, not exact)


MAKERS: dict[str, Callable[..., Candidate]] = {
    "ours, auto": lambda rows, **o: ours(rows, **o),
    "ours, backprop": lambda rows, **o: ours(rows, gradient="backprop", **o),
    "ours, checkpoint": lambda rows, **o: ours(rows, gradient="checkpoint", **o),
    "ours, adjoint": lambda rows, **o: ours(rows, gradient="adjoint", **o),
    "ours, rk4 with 8 steps": lambda rows, **o: ours(rows, solver="rk4", steps=8, **o),
    'ours, trace="exact"': lambda rows, **o: ours(rows, trace="exact", **o),
    'ours, trace="hutchinson"': lambda rows, **o: ours(rows, trace="hutchinson", **o),
    OTHER_FIELD: lambda rows, **o: ours(rows, time="concatsquash", **o),
    "zuko, exact": lambda rows, **o: zukos(rows, exact=True, **o),
    BASELINE: lambda rows, **o: zukos(rows, exact=False, **o),
    "FFJORD, exact": lambda rows, **o: ffjords(rows, exact=True, **o),
    "FFJORD, Hutchinson": lambda rows, **o: ffjords(rows, exact=False, **o),
}


def candidate(
    name: str,
    size: int,
    *,
    dtype: torch.dtype = torch.float32,
    tolerance: float = TOLERANCE,
    **options: Any,
) -> Candidate:
    """Creates what is called ``name``, with a field of its own, equal to the others'."""
    torch.manual_seed(SEED)
    return MAKERS[name](RowField(size).to(dtype), tolerance=tolerance, **options)


def check_parity(size: int) -> None:
    """Raises unless all candidates solve the same equation."""
    y = torch.randn(8, size, dtype=torch.float64)
    fine: dict[str, Any] = {"dtype": torch.float64, "tolerance": 1e-8}
    want_z, want_ladj = candidate("zuko, exact", size, **fine).solve(y)
    for name in MAKERS:
        if name in (OTHER_FIELD, "ours, rk4 with 8 steps"):
            continue
        one = candidate(name, size, **fine)
        z, ladj = one.solve(y)
        torch.testing.assert_close(z, want_z, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        if not one.random:
            torch.testing.assert_close(
                ladj, want_ladj, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def training_step(one: Candidate, batch: Tensor) -> Callable[[], tuple[int, int]]:
    """Creates one step of Adam; a call gives the evaluations forward and backward."""
    optimizer = torch.optim.Adam(one.module.parameters(), lr=0.0, fused=True)

    def step() -> tuple[int, int]:
        if isinstance(one.module, RowField):
            one.module.calls = 0
        optimizer.zero_grad()
        z, ladj = one.solve(batch)
        forward = one.evaluations()
        loss = 0.5 * z.square().sum(-1).mean() - ladj.mean()
        loss.backward()
        optimizer.step()
        return forward, one.evaluations() - forward

    return step


def measure(
    steps: dict[str, Callable[[], tuple[int, int]]], repeats: int
) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    """Median CPU milliseconds and the latest evaluations; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    evaluations = {}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            evaluations[name] = step()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(all_[1:]) for name, all_ in times.items()}, evaluations


@torch.no_grad()
def log_det_errors(layers: dict[str, Candidate], y: Tensor) -> dict[str, str]:
    """Root mean square error of each log-determinant."""
    fine = candidate("ours, checkpoint", y.shape[1], dtype=torch.float64, tolerance=1e-10)
    want = fine.solve(y.double())[1]
    errors = {
        name: float((layer.solve(y)[1] - want).square().mean().sqrt())
        for name, layer in layers.items()
    }
    return {name: "–" if name == OTHER_FIELD else f"{e:.0e}" for name, e in errors.items()}


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three repeats, no exact peers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print(f"torchdiffeq {torchdiffeq.__version__}, zuko {zuko.__version__}")
    print("| D, B | layer | evaluations, forward + backward | log-det error ", end="")
    print("| training step, ms | over zuko's Hutchinson |\n" + "|---" * 6 + "|")
    names = [name for name in MAKERS if not (options.quick and name in SLOW)]
    for size, batch in SIZES:
        check_parity(size)
        y = torch.randn(batch, size)
        layers = {name: candidate(name, size) for name in names}
        errors = log_det_errors(layers, y)
        steps = {name: training_step(layer, y) for name, layer in layers.items()}
        ms, evaluations = measure(steps, 3 if options.quick else options.repeats)
        for name in names:
            forward, backward = evaluations[name]
            print(
                f"| {size}, {batch} | {name} | {forward} + {backward} | {errors[name]} "
                f"| {ms[name]:.1f} | {ms[name] / ms[BASELINE]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
