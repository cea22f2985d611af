"""A continuous flow trained three ways: by likelihood, with regularisation, by flow matching.

The same flow, an ordinary differential equation from a normal distribution to two moons, is
fitted by maximum likelihood (each step solves the equation), again with its kinetic energy held
small, and by flow matching (each step is one regression on the velocities of straight paths). For
each the table has the time it took, the loss on new points, and the evaluations of the field that
scoring these points costs. The pictures show what the flows learned: the field, the paths from the
base to the data, and the density on the way.

    python examples/continuous.py            # two to three minutes
    python examples/continuous.py --quick    # some seconds, to see that it runs

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pyro
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from pyro_nf import flows, infer, plot
from pyro_nf.distributions import Flow
from pyro_nf.infer import FitResult

TIMES = (0.25, 0.5, 0.75, 1.0)
Fit = Callable[[Flow, Tensor, int], FitResult]


def moons(rows: int, seed: int) -> Tensor:
    """Two moons, larger than those of scikit-learn and centred."""
    x = torch.as_tensor(make_moons(rows, noise=0.1, random_state=seed)[0], dtype=torch.float32)
    return 2 * x - torch.tensor([1.0, 0.2])


def likelihood(flow: Flow, x: Tensor, steps: int) -> FitResult:
    """Maximum likelihood."""
    return infer.fit_density(
        flow, x, max_steps=steps, batch_size=256, learning_rate=1e-2, progress=False
    )


def regularised(flow: Flow, x: Tensor, steps: int) -> FitResult:
    """Maximum likelihood with the kinetic energy held small."""
    return infer.fit_density(
        flow,
        x,
        max_steps=steps,
        batch_size=256,
        learning_rate=1e-2,
        aux_weights={"kinetic": 0.02},
        progress=False,
    )


def matching(flow: Flow, x: Tensor, steps: int) -> FitResult:
    """Flow matching, with draws and data of a batch paired by optimal transport."""
    return infer.fit_flow_matching(flow, x, max_steps=2 * steps, batch_size=256, progress=False)


FITS: dict[str, Fit] = {
    "likelihood": likelihood,
    "likelihood + kinetic": regularised,
    "flow matching": matching,
}


def new_flow() -> Flow:
    """A few fixed steps in training, a solver with tolerances in evaluation."""
    pyro.set_rng_seed(0)
    return flows.cnf(2, solver="rk4", steps=6, eval_solver="dopri5")


@torch.no_grad()
def score(flow: Flow, x: Tensor) -> tuple[float, int]:
    """The loss in nats per datum, and the evaluations that it took."""
    flow.eval()
    loss = -float(flow().log_prob(x).mean())
    return loss, flow.transform.parts[0].evaluations.forward


def draw(flow: Flow, name: str, out: Path, resolution: int) -> None:
    """Draws field, paths and densities of one flow, in the coordinates of the layer."""
    layer = flow.transform.parts[0]
    bounds = ((-3.2, 3.2), (-3.2, 3.2))
    figure, axes = plt.subplots(2, 4, figsize=(15, 7), layout="constrained")
    for ax, t in zip(axes[0], TIMES, strict=True):
        part = Flow(flow.base, layer.until(t))
        plot.density(part, bounds=bounds, resolution=resolution, ax=ax)
        ax.set_title(f"density at t = {t:g}")
    for ax, t in zip(axes[1], (0.0, 0.5, 1.0), strict=False):
        plot.vector_field(layer, t, bounds=bounds, arrows=17, ax=ax)
        ax.set_title(f"field at t = {t:g}")
    torch.manual_seed(1)
    plot.trajectories(layer, flow.base().sample((150,)), ax=axes[1, 3])
    axes[1, 3].set(title="paths", xlim=bounds[0], ylim=bounds[1])
    figure.suptitle(f"trained by {name}")
    figure.savefig(out / f"continuous_{name.replace(' + ', '_').replace(' ', '_')}.png", dpi=80)
    plt.close(figure)


def main() -> None:
    """Fits, prints the table, draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short fits")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where pictures go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    x, new = moons(10_000, seed=0), moons(5000, seed=1)
    print(f"{'trained by':22s}{'nats per point':>15s}{'seconds':>9s}{'evaluations':>13s}")
    for name, fit in FITS.items():
        flow = new_flow()
        result = fit(flow, x, 30 if arguments.quick else 1500)
        loss, evaluations = score(flow, new)
        print(f"{name:22s}{loss:15.3f}{result.seconds:9.0f}{evaluations:13d}", flush=True)
        draw(flow, name, arguments.out, resolution=40 if arguments.quick else 120)
    print("(the entropy of these moons is 2.389 nats)")


if __name__ == "__main__":
    main()
