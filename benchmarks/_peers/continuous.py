"""The continuous layer: what :mod:`benchmarks.cnf` and its memory sibling measure."""

from __future__ import annotations

import torch

from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Contender

# Ours has the exact trace. The peers' first rows have Hutchinson's estimate, their cheaper one.
CANDIDATES = {
    "pyro_nf": "ours, auto",
    "zuko": "zuko, Hutchinson",
    "zuko, exact": "zuko, exact",
    "FFJORD": "FFJORD, Hutchinson",
    "FFJORD, exact": "FFJORD, exact",
}
PARITY = "parity: within 1e-04, checked by benchmarks.cnf"


def contenders(spec: Spec, *, quick: bool) -> dict[str, Contender]:
    """Creates the layers of one field, once all were found to solve the same equation.

    Args:
        spec: Dimension and batch.
        quick: Whether to leave out the peers' exact traces, which take seconds a step.
    """
    from benchmarks import cnf  # torchdiffeq and zuko, which not everybody has

    cnf.check_parity(spec.dim)
    generator = torch.Generator().manual_seed(0)
    batch, dtype = (
        torch.randn(spec.batch, spec.dim, generator=generator),
        torch.get_default_dtype(),
    )
    found = {}
    for library, name in CANDIDATES.items():
        if quick and library.endswith("exact"):
            continue
        one = cnf.candidate(name, spec.dim, dtype=dtype)
        count = sum(p.numel() for p in one.module.parameters())
        step = cnf.training_step(one, batch)
        found[library] = Contender(count, {"train": step}, PARITY)
    return found


def memory(*, quick: bool) -> dict[str, float]:
    """Peak MiB that a training step adds, D = 43 and batch 1024, each in its own process."""
    from benchmarks.cnf_memory import in_own_process

    return {
        library: in_own_process(name)
        for library, name in CANDIDATES.items()
        if not (quick and library.endswith("exact"))
    }
