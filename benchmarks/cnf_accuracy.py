"""What the tolerance of a continuous layer buys: errors in units of ``rtol``, and evaluations.

    python -m benchmarks.cnf_accuracy

A field of four dimensions with large weights, in float64; the reference is solved by dopri8 at a
tolerance of 1e-12. The errors are the largest of 64 rows, relative to 1 + |value| as tolerances
are: of the log-determinant, of a round trip, and of one row alone against the same row in the
batch. Then the relative error of the gradients with respect to input, context and parameters, the
adjoint's and the checkpoint's against plain backpropagation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks._machine import describe
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import Continuous

D, CONTEXT, ROWS, GAIN = 4, 2, 64, 2.0
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)


def field() -> FieldMLP:
    """A field with weights far from a fresh one's."""
    torch.manual_seed(0)
    new = FieldMLP(D, (32, 32), context_dim=CONTEXT).double()
    with torch.no_grad():
        for p in new.parameters():
            p.copy_(GAIN * torch.randn_like(p) / max(1, p.shape[-1]) ** 0.5)
    return new


def gradients(layer: Continuous, x: Tensor, context: Tensor) -> list[Tensor]:
    """The gradients of a loss with respect to input, context and all parameters together."""
    leaves = [x.clone().requires_grad_(), context.clone().requires_grad_(), *layer.parameters()]
    y, ladj = layer.forward_and_ladj(leaves[0], leaves[1])
    found = torch.autograd.grad((y.square().sum(-1) / 2 - ladj).mean(), leaves)
    return [found[0], found[1], torch.cat([g.reshape(-1) for g in found[2:]])]


def error(got: Tensor, want: Tensor) -> float:
    """The largest error, relative to 1 + |value|."""
    return float(((got - want).abs() / (1 + want.abs())).max())


def main() -> None:
    """Prints the two tables."""
    torch.set_num_threads(1)
    print(describe())
    f = field()
    x, context = torch.randn(ROWS, D).double(), torch.randn(ROWS, CONTEXT).double()
    tight = Continuous(f, solver="dopri8", rtol=1e-12, atol=1e-12, max_steps=10_000)
    with torch.no_grad():
        y, ladj = tight.forward_and_ladj(x, context)
    print("\n| norm | rtol | evaluations | log-det / rtol | round trip / rtol | alone / rtol |")
    print("|---|---|---|---|---|---|")
    for norm in ("rms", "max", "sample"):
        for tol in TOLERANCES:
            layer = Continuous(f, rtol=tol, atol=tol, norm=norm)
            with torch.no_grad():
                y1, ladj1 = layer.forward_and_ladj(x, context)
                cost = layer.evaluations.forward
                back, _ = layer.inverse_and_ladj(y, context)
                alone = [layer.forward_and_ladj(x[i], context[i]) for i in range(ROWS)]
            of_ladj, trip = error(ladj1, ladj), error(back, x)
            single = max(
                max(error(a, y1[i]), error(b, ladj1[i])) for i, (a, b) in enumerate(alone)
            )
            errors = " | ".join(f"{e / tol:.1f}" for e in (of_ladj, trip, single))
            print(f"| {norm} | {tol:g} | {cost} | {errors} |")
    print("\n| rtol | adjoint: input | context | parameters | checkpoint: parameters |")
    print("|---|---|---|---|---|")
    for tol in TOLERANCES:
        found = {
            how: gradients(Continuous(f, rtol=tol, atol=tol, gradient=how), x, context)
            for how in ("backprop", "adjoint", "checkpoint")
        }
        relative = {
            how: [
                float((a - b).norm() / b.norm())
                for a, b in zip(found[how], found["backprop"], strict=True)
            ]
            for how in ("adjoint", "checkpoint")
        }
        adjoint = " | ".join(f"{e:.1e}" for e in relative["adjoint"])
        print(f"| {tol:g} | {adjoint} | {relative['checkpoint'][2]:.1e} |")


if __name__ == "__main__":
    main()
