"""What a training step of a neural autoregressive flow costs, against Pyro's and zuko's.

    python -m benchmarks.naf [--repeats 15]

One autoregressive layer of deep sigmoidal units, one step of Adam on the negative log-likelihood,
batch 1024. Pyro's layer has the same form, and given the same network widths the same number of
parameters; it scores its own draws alone, so its step is that of an ELBO on the same map. Zuko's
NAF is another network (a monotonic MLP of a signal): its widths are chosen for about the same
number of parameters. All are interleaved in one process; medians of CPU milliseconds, one thread.
Importing zuko turns off torch's argument validation for the whole process, ours included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pyro.distributions.transforms import neural_autoregressive
from torch import Tensor, nn

from benchmarks._machine import describe
from pyro_nf.bijections import DeepDenseSigmoidal, DeepSigmoidal
from pyro_nf.transforms import Autoregressive

SIZES = ((6, 64), (43, 128))
UNITS = 16
BATCH = 1024

Loss = Callable[[Tensor], Tensor]


def _normal_loss(z: Tensor, ladj: Tensor) -> Tensor:
    return 0.5 * z.square().sum(-1).mean() - ladj.mean()


def ours(bijection: DeepSigmoidal | DeepDenseSigmoidal, size: int, width: int) -> nn.Module:
    """Creates one of our layers; it reads data in one pass."""
    return Autoregressive(bijection, size, fast="log_prob", hidden_dims=(width, width))


def pyros(size: int, width: int) -> nn.Module:
    """Creates Pyro's layer of the same widths."""
    return neural_autoregressive(size, [width, width], width=UNITS)


def zukos(size: int, width: int, parameters: int) -> nn.Module | None:
    """Creates zuko's layer of nearest size, if zuko is installed."""
    try:
        import zuko
    except ImportError:
        return None

    def make(signal: int) -> nn.Module:
        network = {"hidden_features": [16, 16]}
        hidden = [width, width]
        return zuko.flows.NAF(
            size, transforms=1, signal=signal, hidden_features=hidden, network=network
        )

    def distance(signal: int) -> int:
        return abs(sum(p.numel() for p in make(signal).parameters()) - parameters)

    return make(min(range(4, 65, 4), key=distance))


def losses(size: int, width: int) -> dict[str, tuple[nn.Module, Loss]]:
    """The layers under test and the loss of a batch, by name."""
    dsf, ddsf = DeepSigmoidal(units=UNITS), DeepDenseSigmoidal(units=4)
    layers: dict[str, tuple[nn.Module, Loss]] = {}
    for name, layer in (
        ("ours", ours(dsf, size, width)),
        ("ours, dense", ours(ddsf, size, width)),
    ):
        layers[name] = layer, lambda y, f=layer: _normal_loss(*f.inverse_and_ladj(y))
    pyro_layer = pyros(size, width)

    def pyro_loss(x: Tensor) -> Tensor:
        y = pyro_layer._call(x)
        return _normal_loss(y, pyro_layer.log_abs_det_jacobian(x, y))

    layers["Pyro"] = pyro_layer, pyro_loss
    zuko_flow = zukos(size, width, count(layers["ours"][0]))
    if zuko_flow is not None:
        layers["zuko"] = zuko_flow, lambda y: -zuko_flow().log_prob(y).mean()
    return layers


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def training_step(module: nn.Module, loss: Loss, batch: Tensor) -> Callable[[], None]:
    """Creates one step of Adam on a batch."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    return step


def median_ms(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each, interleaved; the first two rounds warm up."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats + 2):
        for key, run in runs.items():
            start = time.process_time()
            run()
            times[key].append((time.process_time() - start) * 1e3)
    return {key: statistics.median(values[2:]) for key, values in times.items()}


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| D, H | layer | parameters | training step, ms | over ours |\n" + "|---" * 5 + "|")
    for size, width in SIZES:
        torch.manual_seed(0)
        layers, batch = losses(size, width), torch.randn(BATCH, size)
        runs = {name: training_step(*layer, batch) for name, layer in layers.items()}
        ms = median_ms(runs, options.repeats)
        for name, (module, _) in layers.items():
            print(
                f"| {size}, {width} | {name} | {count(module)} | {ms[name]:.1f} | "
                f"{ms[name] / ms['ours']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
