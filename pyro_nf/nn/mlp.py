"""A multilayer perceptron whose features lead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_int
from pyro_nf.nn._activations import Activation, make_activations
from pyro_nf.nn._dense import evaluate_in_place, in_place_forms
from pyro_nf.nn._features import Features, check_features, encode, features_per_input
from pyro_nf.nn._linear import Linear, check_inputs

Residual = Literal["none", "skip"]


class MLP(nn.Module):
    r"""A multilayer perceptron from ``(input_dim, *batch)`` to ``(output_dim, *batch)``.

    .. math::
        h_1 = a(W_1 x + b_1 + V_1 c), \quad
        h_i = [h_{i-1} +] \, a(W_i h_{i-1} + b_i + V_i c), \quad
        \text{output} = W h + b

    The context :math:`c` shifts every hidden layer; without hidden layers it shifts the output.
    Its terms are computed once for each row of the context, however much larger the batch of x.
    A fresh network returns exactly 0 (unless ``zero_init=False``).

    Cost: one matrix product a layer on the flattened (features, batch) matrix, no transpose.

    Args:
        input_dim: number of features of x; 0 makes the output a function of the context alone.
        output_dim: number of features of the output.
        hidden_dims: widths of the hidden layers; ``()`` for a linear map.
        context_dim: length of the context's last axis; 0 for none.
        activation: ``"relu"``, ``"tanh"``, ``"elu"``, ``"silu"``, ``"gelu"``, ``"softplus"``,
            ``"leaky_relu"``, ``"sigmoid"``, an elementwise function, or an ``nn.Module`` (copied
            for each layer).
        residual: ``"skip"`` adds to each hidden layer the one before where their widths agree.
        features: ``"values"`` reads x itself, ``"periodic"`` its cosine and sine, for angles.
        zero_init: whether the last layer starts at 0.

    Raises:
        ValueError: if a size, the activation's name, ``residual`` or ``features`` is not one of
            those allowed.
        TypeError: if a size is no integer or the activation is none.

    References:
        - Deep residual learning for image recognition (He et al., 2016), arXiv:1512.03385.

    Examples:
        >>> import torch
        >>> network = MLP(3, 8, hidden_dims=(16, 16), context_dim=2)
        >>> network(torch.randn(3, 10, 5), torch.randn(5, 2)).shape
        torch.Size([8, 10, 5])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        context_dim: int = 0,
        activation: Activation = "relu",
        residual: Residual = "none",
        features: Features = "values",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.input_dim = non_negative_int("MLP", "input_dim", input_dim)
        self.output_dim = positive_int("MLP", "output_dim", output_dim)
        self.hidden_dims = hidden_sizes("MLP", "hidden_dims", hidden_dims)
        self.context_dim = non_negative_int("MLP", "context_dim", context_dim)
        self.residual: Residual = choice("MLP", "residual", residual, ("none", "skip"))
        self.skips = hidden_skips(self.hidden_dims, self.residual)
        self.activations = make_activations("MLP", activation, len(self.hidden_dims))
        self.features = check_features("MLP", features)
        widths = (features_per_input(features) * self.input_dim, *self.hidden_dims)
        self.hidden = nn.ModuleList(
            Linear(widths[i], widths[i + 1], context_dim=self.context_dim)
            for i in range(len(self.hidden_dims))
        )
        self.output = Linear(
            widths[-1],
            self.output_dim,
            context_dim=0 if self.hidden_dims else self.context_dim,
            zero_init=zero_init,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: shape ``(input_dim, *batch)``.
            context: shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of shape ``(output_dim, *batch)``, contiguous.
        """
        check_inputs("MLP", x, context, self.input_dim, self.context_dim)
        return evaluate(self, encode(self.features, x), context)


def hidden_skips(hidden_dims: Sequence[int], residual: Residual) -> tuple[bool, ...]:
    """Says for each hidden layer whether the one before is added to it."""
    return tuple(
        residual == "skip" and i > 0 and hidden_dims[i - 1] == width
        for i, width in enumerate(hidden_dims)
    )


class Dense(Protocol):
    """What the dense networks have in common."""

    hidden: nn.ModuleList
    activations: nn.ModuleList
    skips: tuple[bool, ...]
    output: Linear


def evaluate(network: Dense, x: Tensor, context: Tensor | None) -> Tensor:
    """Runs the hidden layers, each with its activation and skip, then the output layer."""
    linears = (*network.hidden, network.output)
    if not any(network.skips):
        activations = in_place_forms(linears, network.activations, x)
        if activations is not None:
            return evaluate_in_place(linears, activations, x, context)
    h = x
    for linear, activation, skip in zip(
        network.hidden, network.activations, network.skips, strict=True
    ):
        change = activation(linear(h, context))
        h = h + change if skip else change
    return network.output(h, context)
