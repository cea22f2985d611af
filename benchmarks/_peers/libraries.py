"""All libraries' flows of one architecture, checked against ours and ready to be timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks._peers import continuous, floor, ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Contender, Model
from benchmarks._peers.images_architecture import ImageSpec
from benchmarks._peers.operations import torch_cells
from benchmarks._peers.parity import SEED, difference, verdict
from benchmarks._peers.weights import randomize

OURS, COMPILED = "pyro_nf", "pyro_nf, compiled"
TORCH_PEERS = ("pyro", "zuko", "nflows", "normflows")
LIBRARIES = (OURS, *TORCH_PEERS, "flowjax", *floor.LIBRARIES)


def contenders(
    spec: Spec,
    libraries: Sequence[str],
    *,
    device: str,
    compiled: bool = False,
    quick: bool = False,
) -> dict[str, Contender]:
    """Creates what is timed of one architecture, in torch's default dtype.

    Args:
        spec: The architecture.
        libraries: Those wanted; one that is not installed is left out.
        device: "cpu" or "cuda".
        compiled: Whether to add ours with both directions compiled.
        quick: Whether to leave out what takes long.
    """
    if spec.family == "cnf":
        every = continuous.contenders(spec, quick=quick)
        wanted = (*libraries, "FFJORD")
        return {name: one for name, one in every.items() if name.split(",")[0] in wanted}
    found: dict[str, Contender] = {}
    with torch.device(device):
        if OURS in libraries:
            found[OURS] = ready(spec, ours.model(spec))
        if compiled:
            model = ours.model(spec)
            model.module.compile()
            found[COMPILED] = ready(spec, model)
    for name in TORCH_PEERS:
        build = _builder(name) if name in libraries else None
        if build is None or (first := build(spec)) is None:
            continue
        words, failed = verdict(difference(spec, build), first.apart)
        with torch.device(device):
            one = ready(spec, build(spec))
        one.parity, one.failed = words, failed
        found[name] = one
    if "flowjax" in libraries and device == "cpu":
        build = _builder("flowjax")
        in_jax = build(spec) if build else None
        if in_jax is not None:
            found["flowjax"] = in_jax
    with torch.device(device):
        floors = floor.contenders(spec)
    return found | {name: one for name, one in floors.items() if name in libraries}


def installed() -> list[str]:
    """The libraries that can be imported here."""
    peers = [name for name in (*TORCH_PEERS, "flowjax") if _builder(name) is not None]
    return [OURS, *peers, *floor.LIBRARIES]


def _builder(library: str) -> Callable[[Spec], Any] | None:
    """A library's ``build``, which makes a model or a contender; None if it is not installed."""
    try:
        return importlib.import_module(f"benchmarks._peers.{library}").build
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(("benchmarks", "pyro_nf")):
            raise
        return None


def ready(spec: Spec | ImageSpec, model: Model) -> Contender:
    """Gives the model the weights that all share, and makes its cells."""
    if model.reference is None or model.adopt is None:
        randomize(model.module, SEED)
    else:
        reference = model.reference()
        randomize(reference, SEED)
        model.adopt(reference)
    with model.setting():
        cells = torch_cells(model, spec)
    return Contender(model.parameters, cells, setting=model.setting)
