"""How often flows of integers run, in which mode, and under compilers and ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import perturb
from integer_flows import LEVELS, UNIT, images, integers, vectors
from torch import nn

from pyro_nf import flows
from pyro_nf.distributions import Dequantized, DiagonalNormal, Flow
from pyro_nf.infer._validation import without_validation
from pyro_nf.nn import GatedConvNet
from pyro_nf.transforms import Coupling2d, FlowTransform, Logit, LULinear, Reshape

torch.set_num_threads(1)

SHAPE = (1, 2, 2)


def learned_noise(dropout: float = 0.0) -> Flow:
    """Noise of images (1, 2, 2) by a coupling, whose inverse is a search."""

    def network(inputs: int, outputs: int) -> nn.Module:
        return GatedConvNet(inputs, outputs, 8, blocks=1, dropout=dropout, context_shape=SHAPE)

    noise = flows.dequantizer(SHAPE, hidden_dims=(8,))
    if dropout:
        coupling = Coupling2d(
            noise.transform.parts[1].bijection, 1, mask="checkerboard", network=network
        )
        layers = [Reshape((4,), SHAPE), coupling, Logit(alpha=0.0)]
        noise = Flow(DiagonalNormal(4), layers)
    perturb(noise, 0.3)
    return noise


def pixels(context_dim: int = 0) -> Flow:
    """A flow of images (1, 2, 2)."""
    layers = [*vectors(4, context_dim).transform.parts[:2], Reshape((4,), SHAPE), Logit(0.05)]
    return Flow(DiagonalNormal(4), layers)


# One pass of the noise, never inverted


def refuse_inverses(monkeypatch: pytest.MonkeyPatch, noise: Flow) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the noise was inverted")

    for part in noise.transform.modules():
        if isinstance(part, FlowTransform):
            monkeypatch.setattr(part, "inverse_and_ladj", refuse, raising=False)


@pytest.mark.parametrize("draws", [1, 3])
def test_noise_is_scored_by_the_very_pass_that_drew_it(
    draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = learned_noise(dropout=0.5).train()
    refuse_inverses(monkeypatch, noise)
    passes = []
    push = noise.transform.forward_and_ladj

    def recorded(x, context=None):
        passes.append((x, *push(x, context)))
        return passes[-1][1:]

    monkeypatch.setattr(noise.transform, "forward_and_ladj", recorded)
    module, x = Dequantized(pixels(), LEVELS, dequantizer=noise), integers(5, *SHAPE)
    scores = module().log_prob(x, draws=draws)
    ((base, u, ladj),) = passes
    log_q = torch.distributions.Normal(0.0, 1.0).log_prob(base).sum(-1) - ladj
    log_p = module.flow().log_prob((x + u) / LEVELS)
    weights = log_p - log_q - 4 * torch.tensor(float(LEVELS)).log()
    bound = weights.reshape(draws, 5).logsumexp(0) - torch.tensor(float(draws)).log()
    torch.testing.assert_close(scores, bound)


def test_draws_are_scored_by_the_densities_of_any_event() -> None:
    context = torch.randn(3, 2)
    for flow, given in ((vectors(), None), (vectors(context_dim=2), context), (images(), None)):
        perturb(flow, 0.3)
        d = flow.double()(None if given is None else given.double())
        for one in (d, d.expand((4, *d.batch_shape))):
            y, log_p = one.rsample_and_log_prob((7,))
            assert y.shape == (7, *one.batch_shape, *one.event_shape)
            torch.testing.assert_close(log_p, one.log_prob(y, reuse=False))
    assert d._draw is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_noise_is_not_inverted_without_gradients(
    mode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = learned_noise()
    refuse_inverses(monkeypatch, noise)
    module = Dequantized(pixels(), LEVELS, dequantizer=noise)
    with mode():
        assert module().log_prob(integers(5, *SHAPE), draws=2).isfinite().all()


def test_learned_noise_compiles_whole() -> None:
    module = Dequantized(pixels(), LEVELS, dequantizer=learned_noise())
    with without_validation():
        compiled = torch.compile(lambda x: module().log_prob(x), fullgraph=True, backend="eager")
        assert compiled(integers(5, *SHAPE)).isfinite().all()


# Modes


def test_reports_are_in_evaluation_mode() -> None:
    """A noisy log-determinant below a mean of exponentials would give too few bits."""
    flow = flows.cnf(2, trace="hutchinson", hidden_dims=(8,), support=UNIT)
    perturb(flow, 0.5)
    module, x = Dequantized(flow, LEVELS), integers(5, 2)
    reports = {}
    for training in (True, False):
        module.train(training)
        flow.base.eval()
        modes = [part.training for part in module.modules()]
        found = []
        for report in (module.bits_per_dim, module().estimate_log_prob):
            torch.manual_seed(0)
            found.append(report(x, draws=20))
        reports[training] = torch.stack(found)
        assert [part.training for part in module.modules()] == modes
    assert torch.equal(reports[True], reports[False])
    with pytest.raises(ValueError, match="levels"):
        module.train().bits_per_dim(x + LEVELS)
    assert module.training


# Numbers that are no level, unchecked


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("kind", ["uniform", "flow"])
def test_what_is_no_level_has_no_mass(kind: str, draws: int) -> None:
    flow, noise = vectors(), vectors(context_dim=2)
    perturb(flow, 0.3)
    perturb(noise, 0.3)
    dequantizer = "uniform" if kind == "uniform" else noise
    module = Dequantized(flow, LEVELS, dequantizer=dequantizer, draws=draws)
    x = torch.tensor([[0, 3], [1, LEVELS], [-1, 2], [10**12, 0], [2, 1]])
    inside = torch.tensor([True, False, False, False, True])

    def gradients(x: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        return torch.autograd.grad(module().log_prob(x)[chosen].sum(), list(module.parameters()))

    within = x.clamp(0, LEVELS - 1)
    want = gradients(within, inside)
    with without_validation():
        scores = module().log_prob(x)
        found, whole = gradients(x, inside), gradients(x, inside | True)
        assert (module().estimate_log_prob(x, 7) == -torch.inf).tolist() == (~inside).tolist()
    assert (scores == -torch.inf).tolist() == (~inside).tolist()
    assert scores[inside].isfinite().all()
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(whole, want)


# Compiled and mapped


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, while it traces
def test_compiled_passes_are_used() -> None:
    module = Dequantized(vectors(), 17, dequantizer=vectors(context_dim=2))
    torch.manual_seed(0)
    want = module().log_prob(integers(5, 2))
    module.compile(backend="eager")
    torch.manual_seed(0)
    torch.testing.assert_close(module().log_prob(integers(5, 2)), want)
    assert module.flow._compiled is not None
    module.recompute_activations(2)
    assert module.flow.transform.recompute_segments == 2


def test_side_results_of_both_flows() -> None:
    class Reporting(LULinear):
        side_results = ("size",)

        def forward_and_ladj(self, x, context=None):
            self.record("size", x.square().sum(-1))
            return super().forward_and_ladj(x, context)

        def inverse_and_ladj(self, y, context=None):
            self.record("size", y.square().sum(-1))
            return super().inverse_and_ladj(y, context)

    flow = Flow(DiagonalNormal(2), Reporting(2), support=UNIT)
    noise = Flow(DiagonalNormal(2, context_dim=2), Reporting(2), support=UNIT)
    flow.aux_weights = {"size": 0.1}
    module = Dequantized(flow, 4, dequantizer=noise)
    with module.auxiliary() as results:
        module().log_prob(integers(5, 2))
    assert results["size"].shape == (5,)
    assert module.aux_weights == {"size": 0.1}


@pytest.mark.parametrize("draws", [1, 3])
def test_maps_and_compiles(draws: int) -> None:
    module, x = Dequantized(vectors(), 17, draws=draws), integers(5, 2)
    parameters = dict(module.named_parameters())

    def score(parameters, x):
        return torch.func.functional_call(module, parameters, ()).log_prob(x)

    # Uniform noise alone: torch draws normal numbers in place, which its vmap refuses.
    each = torch.vmap(torch.func.grad(score), (None, 0), randomness="different")
    assert all(g.shape[0] == 5 for g in each(parameters, x).values())
    other = Dequantized(module.flow, 17, dequantizer=vectors(context_dim=2), draws=draws)
    with without_validation():
        for d in (module, other):
            compiled = torch.compile(
                lambda x, d=d: d().log_prob(x), fullgraph=True, backend="eager"
            )
            assert compiled(x).shape == (5,)
