"""Flows of images: latents of levels, priors, named flows, in models and in fits."""

from __future__ import annotations

import copy
import io
import math
from functools import partial

import pyro
import pytest
import torch
from cases import IMAGE_FLOWS, perturb
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import AffineTransform, constraints

from pyro_nf import flows, infer
from pyro_nf.bijections import Affine
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import ConvNet
from pyro_nf.transforms import (
    ActNorm2d,
    Coupling2d,
    Flatten,
    FlowTransform,
    Logit,
    MultiLevel,
    Squeeze,
    Unsqueeze,
)

SMALL = partial(ConvNet, hidden_channels=(6,), activation="silu")
# Small enough to be built and fitted in a moment.
OPTIONS = {
    "cnf": {"hidden_dims": (4,), "solver": "rk4", "steps": 3, "trace": "hutchinson"},
    "flow_plus_plus": {"transforms": 1, "components": 2, "hidden_dims": (4,)},
    "glow": {"transforms": 1, "hidden_dims": (4,)},
    "realnvp": {"transforms": 1, "hidden_dims": (4,)},
    "residual_flow": {"transforms": 1, "hidden_dims": (4,)},
}
EVERY = pytest.mark.parametrize("name", IMAGE_FLOWS)


def small(name: str, shape: tuple[int, int, int] = (1, 4, 4), **options: object) -> Flow:
    return getattr(flows, name)(shape, **OPTIONS[name], **options)


def blobs(rows: int, seed: int = 0) -> Tensor:
    """Correlated images of 4 × 4 pixels far from 0, of an uneven scale."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(rows, 16, generator=generator) @ mixing
    return (40 + 3 * noise).reshape(rows, 1, 4, 4)


def two_levels() -> Flow:
    """On images of 2 × 2 pixels, whose second level is a coupling of single pixels."""
    levels: list[list[FlowTransform]] = [
        [Coupling2d(Affine(), 4, network=SMALL), Unsqueeze()],
        [Coupling2d(Affine(), 2, parity=1, network=SMALL)],
    ]
    return Flow(DiagonalNormal(4), MultiLevel((1, 2, 2), levels, prior=SMALL))


def test_a_density_of_two_levels_integrates_to_one() -> None:
    flow = two_levels().double()
    perturb(flow, 0.35)
    side = torch.linspace(-8, 8, 29, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side, side, side).reshape(-1, 1, 2, 2)
    with torch.no_grad():
        density = torch.cat([flow().log_prob(part).exp() for part in grid.split(200_000)])
    total = density.sum() * (side[1] - side[0]) ** 4
    assert abs(total - 1) < 1e-3
    # The flow is not the standard normal, of which that would say little.
    normal = (-0.5 * grid.square().flatten(1).sum(1)).exp() / (2 * math.pi) ** 2
    assert (density - normal).abs().sum() * (side[1] - side[0]) ** 4 > 0.3


def test_latents_and_data_have_one_size_and_are_read_and_set() -> None:
    flow = flows.glow((3, 8, 8), transforms=1, hidden_dims=(6,)).double()
    layer = flow.transform
    assert isinstance(layer, MultiLevel)
    assert layer.latent_shapes == [(6, 4, 4), (24, 2, 2)]
    assert sum(map(math.prod, layer.latent_shapes)) == layer.input_dim == 3 * 8 * 8
    perturb(flow, 0.1)
    y = flow().sample((5,))
    latents = layer.latents(layer.inv(y))
    assert [latent.shape[1:] for latent in latents] == layer.latent_shapes
    torch.testing.assert_close(layer(layer.flat(latents)), y)
    # Another finest level leaves what the coarser ones are.
    latents[0] = torch.randn_like(latents[0])
    again = layer.latents(layer.inv(layer(layer.flat(latents))))
    for got, want in zip(again, latents, strict=True):
        torch.testing.assert_close(got, want)


def test_the_prior_is_a_normal_given_the_half_that_stays() -> None:
    layer = MultiLevel((1, 2, 2), [[Unsqueeze()], [ActNorm2d(2)]], prior=SMALL).double()
    perturb(layer, 0.5)
    coarse, prior = layer.levels[1], layer.levels[0].parts[0]
    y = torch.randn(50, 1, 2, 2, dtype=torch.float64)
    stays, leaves = Squeeze()(y).split(2, 1)
    shift, raw = prior.network(stays).chunk(2, 1)
    scale = Affine().forward(torch.zeros_like(raw), torch.stack([shift, raw]))[1].exp()
    want = torch.distributions.Normal(shift, scale).log_prob(leaves).sum((1, 2, 3))
    base, ladj = coarse.inverse_and_ladj(stays)
    want = want + torch.distributions.Normal(0.0, 1.0).log_prob(base).sum((1, 2, 3)) + ladj
    flow = Flow(DiagonalNormal(4).double(), layer)
    torch.testing.assert_close(flow().log_prob(y), want)


def test_temperature_scales_the_levels_and_their_priors() -> None:
    layer = MultiLevel((1, 4, 4), [[Unsqueeze()], [Unsqueeze()]], prior=SMALL)
    perturb(layer, 0.5)
    flow = Flow(DiagonalNormal(16), layer)
    pyro.set_rng_seed(0)
    y = flow(temperature=0.5).sample((4000,))
    latents = layer.latents(layer.inv(y))
    for latent in latents:
        assert abs(latent.std() - 0.5) < 0.01
    squeezed = Squeeze()(y)
    stays, leaves = squeezed.split(2, 1)
    shift, raw = layer.levels[0].parts[0].network(stays).chunk(2, 1)
    scale = Affine().forward(torch.zeros_like(raw), torch.stack([shift, raw]))[1].exp()
    assert abs(((leaves - shift) / scale).std() - 0.5) < 0.01


@EVERY
def test_shapes_of_named_flows(name: str) -> None:
    flow = small(name)
    d = flow()
    assert (flow.event_shape, flow.input_dim, d.batch_shape) == ((1, 4, 4), 16, ())
    assert d.sample((3, 2)).shape == (3, 2, 1, 4, 4)
    assert d.log_prob(torch.zeros(3, 2, 1, 4, 4)).shape == (3, 2)
    conditional = small(name, context_dim=3)
    d = conditional(torch.randn(7, 3))
    assert (d.batch_shape, d.event_shape) == ((7,), (1, 4, 4))
    draws = d.sample((5,))
    assert draws.shape == (5, 7, 1, 4, 4)
    assert len(draws.reshape(35, -1).unique(dim=0)) == 35
    assert d.log_prob(torch.zeros(1, 4, 4)).shape == (7,)
    with pytest.raises(ValueError, match=r"expected \(\*batch, 1, 4, 4\)"):
        small(name)().log_prob(torch.zeros(2, 1, 4, 5))


@EVERY
def test_fits_better_than_independent_normals(name: str) -> None:
    x, new = blobs(900).split([700, 200])
    flow = small(name)
    # A field of four channels needs longer than a test may take: all pixels as one normal.
    pixels = x.reshape(-1, 1) if name == "cnf" else x
    independent = torch.distributions.Normal(pixels.mean(0), pixels.std(0))
    infer.fit_density(flow, x, max_steps=60, batch_size=128, learning_rate=1e-2, progress=False)
    with torch.no_grad():
        score = flow.eval()().log_prob(new).mean()
    assert score > independent.log_prob(new).sum((1, 2, 3)).mean() + 0.3


@EVERY
def test_what_data_decide_survives_saving_and_pyros_store(name: str) -> None:
    x, flow = blobs(200), small(name)
    flow.initialize(x)
    want = flow.eval()().log_prob(x)
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(5)
    restored, stored = small(name), small(name)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():  # the store keeps parameters, and drops buffers
        for mine, its in zip(stored.parameters(), flow.parameters(), strict=True):
            mine.copy_(its)
    for other in (restored, stored, copy.deepcopy(flow)):
        other.initialize(7 * x)  # keeps what it has
        torch.testing.assert_close(other.eval()().log_prob(x), want)


def test_unit_interval() -> None:
    flow = flows.glow((1, 4, 4), transforms=1, hidden_dims=(4,), support=constraints.unit_interval)
    x = torch.rand(50, 1, 4, 4)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    infer.fit_density(flow, x, max_steps=3, progress=False)
    assert flow().log_prob(x).isfinite().all()
    with pytest.raises(ValueError, match=r"got support=.*unit_interval for numbers"):
        flows.glow((1, 4, 4), support=constraints.positive)


def test_gradients_are_the_same_from_recomputed_activations() -> None:
    torch.manual_seed(0)
    flow = flows.glow((2, 8, 8), transforms=4, hidden_dims=(6,)).double()
    perturb(flow, 0.1)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    parameters = [p for name, p in flow.named_parameters() if not name.endswith("center")]
    grads = []
    for recomputed in (False, True):
        if recomputed:
            flow.recompute_activations()
            assert {level.recompute_segments for level in flow.transform.levels} == {4}
        grads.append(torch.autograd.grad(flow().log_prob(x).sum(), parameters))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_prior_and_a_decoder_in_pyro_models() -> None:
    pyro.clear_param_store()
    prior = small("glow")
    decoder = small("realnvp", context_dim=16)
    data = blobs(6) / 40

    def model() -> None:
        pyro.module("prior", prior)
        pyro.module("decoder", decoder)
        with pyro.plate("images", 6):
            z = pyro.sample("z", prior())
            pyro.sample("x", decoder(z.flatten(-3)), obs=data)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step() for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert any(name.startswith("prior") for name in pyro.get_param_store())


def test_a_feature_map_as_context() -> None:
    flow = flows.glow((1, 4, 4), context_shape=(3, 2, 2), transforms=1, hidden_dims=(4,))
    assert flow.context_dim == 12
    perturb(flow, 0.3)
    maps = torch.randn(5, 3, 2, 2)
    d = flow(maps.flatten(-3))
    assert d.batch_shape == (5,)
    shifted = flow((maps + torch.eye(2)).flatten(-3))
    x = torch.randn(1, 4, 4)
    assert (d.log_prob(x) - shifted.log_prob(x)).abs().min() > 1e-3


def test_flat_images() -> None:
    flow = Flow(DiagonalNormal(16), [flows.glow((1, 4, 4)).transform, Flatten((1, 4, 4))])
    assert flow().sample((3,)).shape == (3, 16)
    assert flow.event_shape == (16,)


def test_levels_of_elementwise_and_of_bounded_layers() -> None:
    flow = Flow(DiagonalNormal(4), MultiLevel((1, 2, 2), [[AffineTransform(0.0, 2.0)]]))
    want = torch.distributions.Normal(0.0, 2.0).log_prob(torch.ones(4)).sum()
    torch.testing.assert_close(flow().log_prob(torch.ones(1, 2, 2)), want)
    levels = [[Unsqueeze(), Logit(0.0)]]
    flow = Flow(DiagonalNormal(16), MultiLevel((1, 4, 4), levels))
    with pytest.raises(ValueError, match="outside of"):
        flow().log_prob(torch.full((1, 4, 4), 7.0))
    assert flow().log_prob(flow().sample()).isfinite()


def test_sizes_that_are_not_halved_are_free() -> None:
    assert flows.cnf((1, 3, 5), hidden_dims=(4,)).event_shape == (1, 3, 5)
    noise = flows.dequantizer((2, 3, 3), hidden_dims=(4,))
    assert noise(torch.zeros(5, 18)).sample().shape == (5, 2, 3, 3)
    coarsest = flows.glow((1, 4, 4), levels=2, transforms=1, hidden_dims=(4,)).transform
    assert coarsest.latent_shapes == [(2, 2, 2), (8, 1, 1)]
