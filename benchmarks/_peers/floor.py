"""What no library can undercut: the conditioners alone, and their matrix products alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Contender

LIBRARIES = ("floor", "products")


def networks(spec: Spec) -> nn.ModuleList | None:
    """Creates the conditioners as plain dense perceptrons; None if the family has none."""
    if spec.hidden is None or spec.family in ("bnaf", "cnf"):
        return None
    return nn.ModuleList(_perceptron(_widths(spec, i)) for i in range(spec.transforms))


def _widths(spec: Spec, number: int) -> list[int]:
    kept = int(ours.kept(spec, number).sum()) if spec.splits else spec.dim
    moved = spec.dim - kept if spec.splits else spec.dim
    return [kept, *spec.hidden_dims, spec.params_per_input * moved]


def _perceptron(widths: list[int]) -> nn.Module:
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def contenders(spec: Spec) -> dict[str, Contender]:
    """Creates both floors; their operations are those of the fast direction.

    A sample's or a score's floor is a pass of the networks, a training step's also has their
    gradients, with respect to the input too, and the fused Adam.
    """
    whole = networks(spec)
    if whole is None:
        return {}
    count = sum(p.numel() for p in whole.parameters())
    run = {"floor": _passes(whole, spec), "products": _products(whole, spec)}
    costs = {"log_prob": 0, "sample": 0, "train": 1, "vi": 1, "inverse_grad": 1}
    return {
        name: Contender(count, {op: pair[costs[op]] for op in spec.kind.operations})
        for name, pair in run.items()
    }


Pair = tuple[Callable[[], object], Callable[[], object]]


def _passes(whole: nn.ModuleList, spec: Spec) -> Pair:
    """Passes of the networks: without gradients, and a training step."""
    sizes = [_widths(spec, i)[0] for i in range(spec.transforms)]
    inputs = [torch.randn(spec.batch, size, requires_grad=True) for size in sizes]
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.0, fused=True)

    def evaluate() -> None:
        with torch.no_grad():
            for net, x in zip(whole, inputs, strict=True):
                net(x)

    def train() -> None:
        optimizer.zero_grad()
        for x in inputs:
            x.grad = None
        total: Tensor = sum(net(x).sum() for net, x in zip(whole, inputs, strict=True))
        total.backward()
        optimizer.step()

    return evaluate, train


def _products(whole: nn.ModuleList, spec: Spec) -> Pair:
    """The matrix products of a pass, and those of a pass with its gradients, into buffers."""
    linears = [part for part in whole.modules() if isinstance(part, nn.Linear)]
    buffers = [_buffers(linear.weight.detach(), spec.batch) for linear in linears]

    def evaluate() -> None:
        for x, weight, _, y, _, _ in buffers:
            torch.mm(x, weight.t(), out=y)

    def train() -> None:
        evaluate()
        for x, weight, y_grad, _, x_grad, weight_grad in buffers:
            torch.mm(y_grad, weight, out=x_grad)
            torch.mm(y_grad.t(), x, out=weight_grad)

    return evaluate, train


def _buffers(weight: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Input, weight, upstream, then room for the output and the two gradients."""
    outputs, inputs = weight.shape
    x, y_grad = torch.randn(batch, inputs), torch.randn(batch, outputs)
    room = torch.empty(batch, outputs), torch.empty_like(x), torch.empty_like(weight)
    return x, weight, y_grad, *room
