"""What ``fit_density`` and ``fit_guide`` cost beyond bare training loops, per step.

    python -m benchmarks.fit_overhead [--batch 1024] [--draws 256] [--repeats 7]

The bare loop of ``fit_density`` takes a batch by index, computes ``-flow().log_prob(x).mean()``,
backpropagates, clips the gradient and steps a fused Adam. That of ``fit_guide``'s flow stage draws
from the guide's flow, takes the draws back with constant parameters (a path gradient), scores them
by the same function of the model, and goes on likewise. Both run on equal flows, interleaved:
medians of CPU time, and of the ratios of neighbours. One thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks._machine import describe
from pyro_nf import flows, infer
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.autoguide import AutoFlow

STEPS = 60
FLOWS: dict[str, Callable[[], nn.Module]] = {
    "realnvp D=6 (64, 64)": lambda: flows.realnvp(6),
    "maf D=6 (64, 64)": lambda: flows.maf(6),
    "nsf D=6 (64, 64)": lambda: flows.nsf(6),
    "maf D=43 (128, 128)": lambda: flows.maf(43, hidden_dims=(128, 128)),
}


def bare_loop(flow: nn.Module, x: Tensor, batch: int) -> None:
    """Trains with nothing around it."""
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3, fused=True)
    order = torch.randperm(len(x))
    for step in range(STEPS):
        start = step * batch % (len(x) - batch)
        rows = x.index_select(0, order[start : start + batch])
        loss = -flow().log_prob(rows).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


def fitted(flow: nn.Module, x: Tensor, batch: int) -> None:
    """Trains by ``fit_density``, without held-out rows: the loop has none."""
    infer.fit_density(
        flow,
        x,
        batch_size=batch,
        max_steps=STEPS,
        learning_rate=1e-3,
        validation=None,
        progress=False,
    )


def schools(y: Tensor, sigma: Tensor) -> None:
    """The eight schools, centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def regression(x: Tensor, y: Tensor) -> None:
    """A linear regression."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal((x @ weights.unsqueeze(-1)).squeeze(-1), scale), obs=y)


EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
POINTS = torch.linspace(-1, 1, 200)[:, None] ** torch.arange(4)
MODELS: dict[str, tuple[Callable[..., None], tuple[Tensor, ...]]] = {
    "eight schools": (schools, (EFFECTS, ERRORS)),
    "regression, 200 rows": (regression, (POINTS, POINTS.sum(1))),
}


def bare_guide_loop(guide: AutoFlow, log_joint: LogJoint, draws: int) -> None:
    """Trains a guide's flow with nothing around it."""
    base, transform = guide.posterior.base, guide.posterior.transform
    parameters = list(guide.posterior.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    for _ in range(STEPS):
        z = transform.forward_and_ladj(torch.randn(draws, guide.latents.dim))[0]
        for parameter in parameters:
            parameter.requires_grad = False
        x, ladj = transform.inverse_and_ladj(z)
        log_q = base().log_prob(x) + ladj
        for parameter in parameters:
            parameter.requires_grad = True
        loss = (log_q - log_joint(z)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


def guide_fitted(model: Callable[..., None], guide: AutoFlow, args: object, draws: int) -> float:
    """CPU milliseconds of a step of ``fit_guide``'s flow stage, without set-up and end."""
    times: list[float] = []
    infer.fit_guide(
        model,
        guide,
        *args,
        starts=0,
        num_steps=STEPS + 1,
        num_particles=draws,
        learning_rate=1e-3,
        final_draws=10,
        tolerance=None,
        progress=False,
        callback=lambda step, elbo: times.append(time.process_time()),
    )
    return (times[-1] - times[0]) / STEPS * 1e3


def guides(draws: int, repeats: int) -> None:
    """Prints the table of ``fit_guide``."""
    print("\n| model | bare loop, ms a step | fit_guide, ms a step | overhead |")
    print("|---|---|---|---|")
    for name, (model, args) in MODELS.items():
        guide = AutoFlow(model).setup(*args)
        log_joint = LogJoint(model, args, {}, guide.latents)
        times: dict[str, list[float]] = {"bare": [], "fit": []}
        for _ in range(repeats + 1):
            with without_validation():
                bare = cpu_ms(bare_guide_loop, copy.deepcopy(guide), log_joint, draws)
            times["bare"].append(bare)
            times["fit"].append(guide_fitted(model, copy.deepcopy(guide), args, draws))
        print_row(name, times)


def print_row(name: str, times: dict[str, list[float]]) -> None:
    """Prints a row; the first round warmed up."""
    pairs = list(zip(*times.values(), strict=True))[1:]
    bare, fit = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(fit / bare for bare, fit in pairs)
    print(f"| {name} | {bare:.2f} | {fit:.2f} | {100 * (ratio - 1):+.0f} % |", flush=True)


def cpu_ms(run: Callable[..., None], *args: object) -> float:
    """CPU milliseconds of one step."""
    start = time.process_time()
    run(*args)
    return (time.process_time() - start) / STEPS * 1e3


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| flow | bare loop, ms a step | fit_density, ms a step | overhead |")
    print("|---|---|---|---|")
    for name, make in FLOWS.items():
        flow = make()
        size = flow.input_dim
        x = torch.randn(20 * options.batch, size)
        flow.initialize(x)
        times: dict[str, list[float]] = {"bare": [], "fit": []}
        for _ in range(options.repeats + 1):
            times["bare"].append(cpu_ms(bare_loop, copy.deepcopy(flow), x, options.batch))
            times["fit"].append(cpu_ms(fitted, copy.deepcopy(flow), x, options.batch))
        print_row(name, times)
    guides(options.draws, options.repeats)


if __name__ == "__main__":
    main()
