"""The flow of a guide: base, flow, an affine layer and the frame, from base to latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.distributions import Transform

from pyro_nf import flows
from pyro_nf._checks import choice
from pyro_nf.bijections import Planar, Sylvester, Woodbury
from pyro_nf.bijections._root import NumericallyInverted
from pyro_nf.distributions import DiagonalNormal, Flow, FlowDistribution, StudentT
from pyro_nf.infer._path_gradient import PathGradientDistribution
from pyro_nf.infer.autoguide._whitening import Whitening
from pyro_nf.transforms import (
    ActNorm,
    Autoregressive,
    Compose,
    Continuous,
    Coupling,
    DiagonalScale,
    Elementwise,
    FlowTransform,
    Inverse,
    Joint,
    Permutation,
    TriangularAffine,
)
from pyro_nf.transforms._joint import JointWiring
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms.foreign import as_flow_transform

FlowLike = str | Flow | Transform | Callable[[int], Any] | Iterable[Transform]
Affine = Literal["full", "lowrank", "diag"]

# Above this many dimensions the inverse of an autoregressive layer costs more than it saves.
LARGEST_AUTOREGRESSIVE = 64
_LARGEST_FULL = 300
# Small networks and many draws: a guide's flow is trained for minutes, not for days.
_FOR_GUIDES: dict[str, dict[str, Any]] = {
    "realnvp": {
        "transforms": 10,
        "mask": "random",
        "hidden_dims": (32, 32),
        "activation": "silu",
    },
    "nsf": {
        "wiring": "coupling",
        "transforms": 6,
        "bins": 8,
        "mask": "random",
        "hidden_dims": (32, 32),
    },
    "iaf": {"transforms": 4, "hidden_dims": (32, 32), "activation": "silu"},
}
_RANK = 20


class PosteriorFlow(nn.Module):
    """Base, flow, affine layer and frame, whose chain maps a base draw to the latents.

    Args:
        base: Module that gives the base distribution.
        flow: The flow, base -> affine layer.
        affine: The affine layer in whitened coordinates; None for none.
        whitening: The frame, whitened coordinates -> latents.
    """

    def __init__(
        self,
        base: nn.Module,
        flow: FlowTransform,
        affine: FlowTransform | None,
        whitening: Whitening,
    ) -> None:
        super().__init__()
        self.base = base
        self.transform = Compose([p for p in (flow, affine, whitening) if p is not None])
        self._has_affine = affine is not None

    @property
    def flow(self) -> FlowTransform:
        """The flow, base -> affine layer."""
        return self.transform[0]

    @property
    def affine(self) -> FlowTransform | None:
        """The affine layer in whitened coordinates."""
        return self.transform[1] if self._has_affine else None

    @property
    def whitening(self) -> Whitening:
        """The frame."""
        frame = self.transform[-1]
        assert isinstance(frame, Whitening)
        return frame

    def forward(self, gradient: Literal["plain", "path"] = "plain") -> FlowDistribution:
        """Creates the distribution of the latents."""
        if gradient == "path":
            return PathGradientDistribution(self.base, self.transform)
        return FlowDistribution(self.base(), self.transform)


def posterior_flow(
    owner: str,
    flow: FlowLike,
    affine: Affine | Literal["auto"] | None,
    tails: Literal["student"] | nn.Module | None,
    loc: Tensor,
    scale: Tensor,
) -> PosteriorFlow:
    """Creates the chain around a flow, in the dtype and on the device of ``loc``.

    Args:
        owner: Who asks, for messages.
        flow: A name, a factory, a flow or transforms.
        affine: The affine layer; "auto" is full in up to 300 dimensions, else low-rank.
        tails: The base's tails.
        loc: First location of the frame, shape ``(D,)``.
        scale: First scale of the frame, a matrix or its diagonal.
    """
    layers, base = _flow_of(owner, flow, len(loc))
    if tails is not None:
        if isinstance(tails, nn.Module):
            base = tails
        else:
            choice(owner, "tails", tails, (None, "student"))
            base = StudentT(len(loc))
    parts = PosteriorFlow(
        DiagonalNormal(len(loc)) if base is None else base,
        layers,
        affine_layer(owner, affine, len(loc)),
        Whitening(loc, scale),
    )
    return parts.to(dtype=loc.dtype, device=loc.device)


def affine_kind(owner: str, kind: Any, dim: int) -> Affine | None:
    """Resolves "auto"."""
    choice(owner, "affine", kind, ("auto", *get_args(Affine), None))
    if kind == "auto":
        return "full" if dim <= _LARGEST_FULL else "lowrank"
    return kind


def affine_layer(owner: str, kind: Any, dim: int) -> FlowTransform | None:
    """Creates the affine layer of a kind, at the identity."""
    kind = affine_kind(owner, kind, dim)
    if kind is None:
        return None
    if kind == "full":
        return TriangularAffine(dim)
    if kind == "diag":
        return ActNorm(dim)
    return Compose([DiagonalScale(dim), Joint(Woodbury(rank=min(_RANK, dim)), dim)])


def supports_path(layer: FlowTransform) -> bool:
    """Whether the inverse of a layer is cheap enough for path gradients by default."""
    if isinstance(layer, Compose):
        return all(map(supports_path, layer.parts))
    if isinstance(layer, Inverse):
        return not _takes_many_steps(layer.layer, "log_prob")
    if isinstance(getattr(layer, "bijection", None), (NumericallyInverted, Planar, Sylvester)):
        return False
    cheap = Coupling, AffineMap, Elementwise, JointWiring, Permutation, Continuous, Autoregressive
    return isinstance(layer, cheap) and not _takes_many_steps(layer, "sample")


def _takes_many_steps(layer: FlowTransform, fast: str) -> bool:
    """Whether a layer's other direction is the slow one of many autoregressive dimensions."""
    if not isinstance(layer, Autoregressive) or layer.fast != fast:
        return False
    return layer.input_dim > LARGEST_AUTOREGRESSIVE


def _flow_of(owner: str, flow: Any, dim: int) -> tuple[FlowTransform, nn.Module | None]:
    """The layers that a user's choice stands for, and its base if it brings one."""
    if isinstance(flow, str):
        made = _by_name(owner, flow, dim)
        layers = list(made.transform) if isinstance(made.transform, Compose) else [made.transform]
        # The affine layer behind them does what the activation normalisation does from data.
        return Compose(layers[:-1] if isinstance(layers[-1], ActNorm) else layers), None
    if callable(flow) and not isinstance(flow, (Flow, Transform)):
        flow = flow(dim)
    if isinstance(flow, Flow):
        transform, base = flow.transform, flow.base
    elif isinstance(flow, Transform):
        transform, base = as_flow_transform(flow), None
    elif isinstance(flow, Iterable):
        transform, base = Compose(flow), None
    else:
        raise TypeError(
            f"{owner} got a flow of type {type(flow).__name__}. Pass a name such as 'realnvp', a "
            "flow, a transform, or a function from the number of dimensions to one of these."
        )
    size = transform.input_dim
    if transform.context_dim or size not in (None, dim):
        raise ValueError(
            f"{owner} got a flow of input_dim={size} and context_dim={transform.context_dim} for "
            f"{dim} latent dimensions. Build it with input_dim={dim} and without context, or pass "
            "a function of the number of dimensions."
        )
    return transform, base


def _by_name(owner: str, name: str, dim: int) -> Flow:
    choice(owner, "flow", name, flows.__all__)
    if name in ("realnvp", "nice") and dim == 1:
        name = "nsf"  # a coupling of one dimension has nothing to read
    options = _FOR_GUIDES.get(name, {}) if dim > 1 else {}
    return getattr(flows, name)(dim, **options)


__all__ = [
    "Affine",
    "FlowLike",
    "PosteriorFlow",
    "affine_kind",
    "affine_layer",
    "posterior_flow",
    "supports_path",
]
