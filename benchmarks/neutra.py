"""NUTS on a funnel, plain and in the base space of a fitted flow guide (NeuTra).

    python -m benchmarks.neutra [--samples 300] [--seeds 3]

The funnel has ten dimensions: v ~ N(0, 3) and nine x ~ N(0, exp(v / 2)). What counts is effective
samples of v for each gradient of the log density, after the warm-up; the fit's are not counted.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import arviz
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS

from benchmarks._machine import describe
from pyro_nf import infer
from pyro_nf.infer.autoguide import AutoFlow


def funnel() -> None:
    """Neal's funnel."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    scale = (v / 2).exp()[..., None].expand(*v.shape, 9)
    pyro.sample("x", dist.Normal(0.0, scale).to_event(1))


class Counted:
    """A model that counts its runs, one for each gradient of NUTS."""

    def __init__(self, model: Any) -> None:
        self.model, self.runs = model, 0

    def __call__(self, *args: Any) -> Any:
        """Runs the model."""
        self.runs += 1
        return self.model(*args)


def chain(model: Any, samples: int, **options: Any) -> tuple[dict[str, torch.Tensor], int, int]:
    """Draws, gradients after warm-up, divergences."""
    counted = Counted(model)
    kernel = NUTS(counted)
    after: list[int] = []

    def note(kernel: Any, state: Any, stage: str, step: int) -> None:
        del kernel, state, step
        if stage == "Sample" and not after:
            after.append(counted.runs)

    mcmc = MCMC(
        kernel, samples, warmup_steps=samples, disable_progbar=True, hook_fn=note, **options
    )
    mcmc.run()
    divergences = sum(len(steps) for steps in mcmc.diagnostics()["divergences"].values())
    return mcmc.get_samples(), counted.runs - after[0], divergences


def ess(v: torch.Tensor) -> float:
    """Effective samples, the lesser of bulk and tail."""
    draws = v.flatten().numpy()[None]
    return min(float(arviz.ess(draws, method=method)) for method in ("bulk", "tail"))


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print(
        "| chain | seed | effective samples of v | gradients | per 1000 | divergences | sd of v |"
    )
    print("|---|---|---|---|---|---|---|")
    rates: dict[str, list[float]] = {"plain NUTS": [], "NeuTra": []}
    for seed in range(options.seeds):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        guide = AutoFlow(funnel)
        infer.fit_guide(funnel, guide, seed=seed, progress=False)
        warped = infer.neutra(funnel, guide)
        for name in rates:
            pyro.set_rng_seed(seed)
            if name == "NeuTra":
                first = warped.initial_params()
                draws, runs, bad = chain(warped, options.samples, initial_params=first)
                v = warped.samples(draws)["v"]
            else:
                draws, runs, bad = chain(funnel, options.samples)
                v = draws["v"]
            effective = ess(v)
            rates[name].append(effective / runs * 1e3)
            print(
                f"| {name} | {seed} | {effective:.0f} | {runs} | {rates[name][-1]:.1f} | {bad} | "
                f"{float(v.std()):.2f} |",
                flush=True,
            )
    ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    print(f"\nNeuTra has {ratio:.1f} times the effective samples per gradient (median); sd is 3.")


if __name__ == "__main__":
    main()
