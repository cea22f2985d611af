"""How many ATen operations a step takes: what small batches pay for.

    python -m benchmarks.operations [--write]

Below some hundred rows a step's time goes with its number of operations, and that number, unlike
a time, is exact and the same on every machine. Counted are a training step without the optimiser
(forward and backward of ``-flow().log_prob(x).mean()``; for ``iaf`` a step of variational
inference, which draws and scores its draws) and ``flow().sample``, both without Pyro's
validation, as ``infer`` runs them. Views and allocations (``t``, ``slice``, ``empty``, ...)
compute nothing and are counted apart from kernels, as "views".

The same on the meta device counts where the host would wait for an accelerator: none is expected.

``--write`` records the counts in ``tests/operation_counts.json``, against which the tests compare.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_nf import flows
from pyro_nf.distributions import Flow
from pyro_nf.infer._validation import without_validation

RECORD = Path(__file__).parent.parent / "tests" / "operation_counts.json"
SIZE, BATCH, IMAGE = 6, 8, (1, 4, 4)
SHARED: dict[str, Any] = {"transforms": 5, "hidden_dims": (64, 64)}
FLOWS: dict[str, Callable[[], Flow]] = {
    "realnvp": lambda: flows.realnvp(SIZE, **SHARED),
    "maf": lambda: flows.maf(SIZE, **SHARED),
    "nsf, autoregressive": lambda: flows.nsf(SIZE, **SHARED),
    "nsf, coupling": lambda: flows.nsf(SIZE, wiring="coupling", **SHARED),
    "iaf": lambda: flows.iaf(SIZE, **SHARED),
    "glow": lambda: flows.glow(IMAGE, transforms=2, hidden_dims=(16, 16)),
}

_aten = torch.ops.aten
_WAITS = {_aten._local_scalar_dense, _aten.nonzero, _aten.equal, _aten.masked_select}
# These compute nothing either, though torch does not mark them as views.
_NO_KERNEL = {
    _aten._reshape_alias,
    _aten._unsafe_view,
    _aten.detach,
    _aten.empty,
    _aten.empty_like,
    _aten.empty_strided,
    _aten.lift_fresh,
    _aten.new_empty,
    _aten.new_empty_strided,
}

Counts = dict[str, int]
Record = dict[str, dict[str, Counts]]  # by flow and task


class Operations(TorchDispatchMode):
    """Counts the operations that reach a device.

    Attributes:
        kernels: How often each operation that computes was called.
        views: The same of those that compute nothing.
        waits: The same of those for which the host waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Counts one operation and runs it."""
        del types
        packet, name = func.overloadpacket, str(func)
        counted = self.views if func.is_view or packet in _NO_KERNEL else self.kernels
        counted[name] += 1
        if packet in _WAITS:
            self.waits[name] += 1
        if packet is _aten._local_scalar_dense and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()  # any value, so that it goes on
        result = func(*args, **(kwargs or {}))
        if packet is _aten._to_copy and _leaves_device(args[0], result):
            self.waits[name] += 1
        return result

    def counts(self) -> Counts:
        """The totals."""
        return {"kernels": self.kernels.total(), "views": self.views.total()}


def _leaves_device(before: Tensor, after: Tensor) -> bool:
    return before.device.type != "cpu" and after.device.type == "cpu"


def likelihood_step(flow: Flow, x: Tensor) -> None:
    """A step of maximum likelihood, without the optimiser."""
    (-flow().log_prob(x).mean()).backward()


def variational_step(flow: Flow, x: Tensor) -> None:
    """A step of variational inference on a standard normal, without the optimiser."""
    q = flow()
    z = q.rsample((len(x),))
    (q.log_prob(z) + 0.5 * z.square().sum(-1)).mean().backward()


def sampling(flow: Flow, x: Tensor) -> None:
    """As many draws as rows."""
    flow().sample((len(x),))


def tasks(name: str) -> dict[str, Callable[[Flow, Tensor], None]]:
    """What is counted of a flow."""
    return {"step": variational_step if name == "iaf" else likelihood_step, "sample": sampling}


def count(name: str, task: str, device: str = "cpu") -> Operations:
    """Counts one task of one flow, after a first run that may fill what is kept."""
    torch.manual_seed(0)
    flow = FLOWS[name]().to(device)
    event = IMAGE if name == "glow" else (SIZE,)
    x = torch.randn(BATCH, *event, device=device)
    run = tasks(name)[task]
    with without_validation():
        run(flow, x)
        flow.zero_grad(set_to_none=True)
        with Operations() as operations:
            run(flow, x)
    return operations


def torch_version() -> str:
    """Torch's version without the build, which counts do not depend on."""
    return torch.__version__.partition("+")[0]


def differences(now: Record, then: Record) -> list[str]:
    """What has changed since the counts were recorded, in words."""
    changed = []
    for name, counted in now.items():
        for task, counts in counted.items():
            recorded = then.get(name, {}).get(task, {})
            changed += [
                f"{name}, {task}: {number} {kind}, recorded {recorded.get(kind)}"
                for kind, number in counts.items()
                if recorded.get(kind) != number
            ]
    return changed


def count_all() -> Record:
    """The counts of every task of every flow."""
    return {name: {task: count(name, task).counts() for task in tasks(name)} for name in FLOWS}


def main() -> None:
    """Parses the command line, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", action="store_true", help="the kernels of a step by name, too")
    parser.add_argument("--write", action="store_true", help=f"record the counts in {RECORD.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, D = {SIZE}, 5 transforms, (64, 64), batch {BATCH}")
    print(f"glow: images of {IMAGE}, 2 steps, (16, 16)\n")
    print("| flow | task | kernels | views | waits of the host |\n|---|---|---|---|---|")
    every = count_all()
    for name, counted in every.items():
        for task, counts in counted.items():
            waits = count(name, task, "meta").waits.total()
            print(f"| {name} | {task} | {counts['kernels']} | {counts['views']} | {waits} |")
    if options.names:
        for name in FLOWS:
            kernels = count(name, "step").kernels.most_common()
            print(f"\n{name}, step: " + ", ".join(f"{op} {times}" for op, times in kernels))
    if options.write:
        record = {"torch": torch_version(), "counts": every}
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        print(f"\nRecorded in {RECORD.name}.")


if __name__ == "__main__":
    main()
