"""A residual network and the continuous flow that it approaches.

A residual network whose k blocks share a field, z ← z + f(t, z)/k, is Euler's method with k steps:
the layer ``Continuous(field, solver="euler", steps=k)``. Its outputs are the network's to the last
digit. Its log-determinant is the integral of a trace, the network's own that of a product of
matrices I + J/k: the two differ, as both differ from the differential equation, by the order of
1/k. The field here is one that was fitted to two moons.

    python examples/neural_ode.py            # about a minute
    python examples/neural_ode.py --quick    # some seconds, to see that it runs

Numbers are printed; a picture goes to ``out/``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pyro
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from pyro_nf import flows, infer
from pyro_nf.nn import Field
from pyro_nf.transforms import Continuous

BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def residual_network(field: Field, z: Tensor, blocks: int) -> Tensor:
    """The outputs of a residual network whose blocks are one field at equally spaced times."""
    for i in range(blocks):
        z = z + field(z.new_tensor(i / blocks), z) / blocks
    return z


def log_det(field: Field, z: Tensor, blocks: int) -> Tensor:
    """The log-determinant of the network's Jacobian, by autograd and one row after the other."""
    jacobians = [
        torch.autograd.functional.jacobian(lambda r: residual_network(field, r, blocks), row)
        for row in z
    ]
    return torch.linalg.slogdet(torch.stack(jacobians)).logabsdet


def fitted_field(max_steps: int) -> Field:
    """A field whose flow carries a normal distribution to two moons."""
    x = torch.as_tensor(make_moons(5000, noise=0.1, random_state=0)[0], dtype=torch.float32)
    flow = flows.cnf(2, hidden_dims=(32, 32), solver="rk4", steps=8)
    infer.fit_density(flow, x, max_steps=max_steps, learning_rate=1e-2, progress=False)
    return flow.double().transform.parts[0].field


@torch.no_grad()
def errors(field: Field, z: Tensor) -> dict[str, list[float]]:
    """For each number of blocks the largest difference of the rows."""
    tight = Continuous(field, solver="dopri8", rtol=1e-11, atol=1e-11)
    y, ladj = tight.forward_and_ladj(z)
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    for blocks in BLOCKS:
        euler = Continuous(field, solver="euler", steps=blocks)
        y_euler, ladj_euler = euler.forward_and_ladj(z)
        y_network = residual_network(field, z, blocks)
        ladj_network = log_det(field, z, blocks)
        for name, difference in (
            ("outputs: network and layer", y_network - y_euler),
            ("outputs: network and equation", y_network - y),
            ("log-determinants: network and layer", ladj_network - ladj_euler),
            ("log-determinants: network and equation", ladj_network - ladj),
        ):
            found[name].append(float(difference.abs().max()))
    return found


LABELS = (
    "outputs: network and layer",
    "outputs: network and equation",
    "log-determinants: network and layer",
    "log-determinants: network and equation",
)


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Draws the differences against the number of blocks."""
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, values in found.items():
        if not any(values):  # equal to the last digit: nothing to see on a logarithmic axis
            continue
        ax.loglog(BLOCKS, values, "o-", ms=4, label=name)
    ax.loglog(BLOCKS, [2 / blocks for blocks in BLOCKS], ":", color="black", label="2/k")
    ax.set(xlabel="blocks k", ylabel="largest difference")
    ax.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fits the field, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short fit")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where pictures go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pyro.set_rng_seed(0)

    field = fitted_field(max_steps=50 if arguments.quick else 1000)
    found = errors(field, torch.randn(10, 2, dtype=torch.float64))
    print(f"{'blocks':38s}" + "".join(f"{blocks:10d}" for blocks in BLOCKS))
    for name, values in found.items():
        print(f"{name:38s}" + "".join(f"{value:10.1e}" for value in values))
    draw(found, arguments.out / "neural_ode.png")


if __name__ == "__main__":
    main()
