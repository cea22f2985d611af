"""A masked multilayer perceptron (MADE): each output sees only the inputs before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_int
from pyro_nf.nn._activations import Activation, make_activations
from pyro_nf.nn._adjacency import (
    Adjacency,
    Reads,
    check_order,
    degree,
    hidden_reads,
    mask_between,
    parents_of,
    topological_order,
)
from pyro_nf.nn._features import Features, check_features, encode, features_per_input
from pyro_nf.nn._linear import Linear, LinearValues, check_context, check_inputs
from pyro_nf.nn.mlp import Residual, evaluate, hidden_skips


class MaskedMLP(nn.Module):
    r"""An autoregressive network: the parameters of input d depend on the inputs before d.

    Every hidden unit has a degree k and sees the inputs at the chain's positions
    0, ..., k − 1; the parameters of the input at position p see the units of degree ≤ p. Degrees
    are spread evenly over 1, ..., D − 1, with a context over 0, ..., D − 1 (so that the first
    input's parameters are a nonlinear function of the context), and ascend within a layer: the
    units of degree ≤ k are a prefix, which makes the slow direction of an autoregressive map
    cheap. They depend on D and the widths alone, not on ``order``.

    With an ``adjacency`` the parameters of input i depend on its parents alone, exactly and for
    any depth: each hidden unit reads a subset of the parents of those it feeds. A unit's degree is
    then the number of inputs in the chain up to the last that it reads, so prefixes are as before.

    A fresh network returns exactly 0. The context enters as in :class:`~pyro_nf.nn.MLP`.

    Cost: one matrix product a layer for all inputs together; the masks are applied to the weights
    at each call.

    Args:
        input_dim: number D of inputs.
        params_per_input: number P of parameters made for each input.
        hidden_dims: widths of the hidden layers, each at least 1; ``()`` for a linear map.
        order: a permutation of 0, ..., D − 1: ``order[i]`` is the input at position i of the
            chain. Default: the natural order, or one that follows the adjacency, the smallest
            index first where there is a choice. Kept as a buffer, so a checkpoint restores it.
        adjacency: boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether the
            parameters of input i may depend on input j; its diagonal is ignored. Default: all
            inputs before i in the chain. Kept as a buffer.
        context_dim: length of the context's last axis; 0 for none.
        activation: as for :class:`~pyro_nf.nn.MLP`; it must act on each element alone.
        residual: ``"skip"`` adds to each hidden layer the one before where their widths agree
            (their degrees then agree too).
        features: as for :class:`~pyro_nf.nn.MLP`; an input's features are seen where it is.

    Attributes:
        counts: for each hidden layer and each position p, the number of units of degree ≤ p.
        skips: for each hidden layer, whether the one before is added to it.

    Raises:
        ValueError: if a size is out of range, ``order`` is no permutation of 0, ..., D − 1, the
            adjacency has a cycle, ``order`` does not follow it, or a hidden layer has fewer units
            than it has distinct sets of parents.
        TypeError: if a size is no integer or the activation is none.

    References:
        - MADE: masked autoencoder for distribution estimation (Germain et al., 2015),
          arXiv:1502.03509.
        - Structured neural networks for density estimation and causal inference (Chen et al.,
          2023), arXiv:2311.02221.

    Examples:
        >>> import torch
        >>> network = MaskedMLP(3, 2, hidden_dims=(16, 16), order=[2, 0, 1])
        >>> network(torch.randn(3, 10)).view(2, 3, 10).shape
        torch.Size([2, 3, 10])
        >>> network.depends_on()  # row d: the inputs that the parameters of input d see
        tensor([[False, False,  True],
                [ True, False,  True],
                [False, False, False]])
    """

    order: Tensor
    adjacency: Tensor | None

    def __init__(
        self,
        input_dim: int,
        params_per_input: int,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        order: Sequence[int] | Tensor | None = None,
        adjacency: Adjacency | None = None,
        context_dim: int = 0,
        activation: Activation = "relu",
        residual: Residual = "none",
        features: Features = "values",
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("MaskedMLP", "input_dim", input_dim)
        self.params_per_input = positive_int("MaskedMLP", "params_per_input", params_per_input)
        self.hidden_dims = hidden_sizes("MaskedMLP", "hidden_dims", hidden_dims)
        self.context_dim = non_negative_int("MaskedMLP", "context_dim", context_dim)
        chain = permutation(order, self.input_dim)
        parents = None
        if adjacency is not None:
            parents = parents_of("MaskedMLP", adjacency, self.input_dim)
            if order is None:
                chain = topological_order(parents)
            check_order("MaskedMLP", parents, chain)
        reads_nothing = self.input_dim == 1 if parents is None else not any(parents)
        if reads_nothing and not self.context_dim:
            self.hidden_dims = ()  # there is nothing to read: the parameters are constants
        self.residual: Residual = choice("MaskedMLP", "residual", residual, ("none", "skip"))
        self.skips = hidden_skips(self.hidden_dims, self.residual)
        self.activations = make_activations("MaskedMLP", activation, len(self.hidden_dims))
        self.features = check_features("MaskedMLP", features)

        self.register_buffer("order", torch.tensor(chain))
        if parents is None:
            self.register_buffer("adjacency", None)
            masks = self._triangular_masks()
        else:
            graph = [[j in reads for j in range(self.input_dim)] for reads in parents]
            self.register_buffer("adjacency", torch.tensor(graph))
            masks = self._graph_masks(parents, chain)
        masks[0] = masks[0].repeat_interleave(features_per_input(features), 1)
        self.hidden = nn.ModuleList(
            Linear(mask.shape[1], mask.shape[0], context_dim=self.context_dim, mask=mask)
            for mask in masks[:-1]
        )
        self.output = Linear(
            masks[-1].shape[1],
            masks[-1].shape[0],
            context_dim=0 if self.hidden_dims else self.context_dim,
            mask=masks[-1],
            zero_init=True,
        )

    def _triangular_masks(self) -> list[Tensor]:
        """Lets each input's parameters see all inputs before it in the chain."""
        degrees = [_degrees(self.input_dim, h, self.context_dim > 0) for h in self.hidden_dims]
        self.counts = tuple(_counts(layer, self.input_dim) for layer in degrees)
        # A source is seen by a target whose degree is not below its own: as a source, an input has
        # degree position + 1; as a target, its parameters have degree position.
        positions = torch.argsort(self.order)
        targets = [*map(torch.tensor, degrees), positions.repeat(self.params_per_input)]
        sources = [positions + 1, *targets[:-1]]
        return [
            (target[:, None] >= source).to(torch.get_default_dtype())
            for target, source in zip(targets, sources, strict=True)
        ]

    def _graph_masks(self, parents: Reads, chain: Sequence[int]) -> list[Tensor]:
        """Lets each input's parameters see its parents in the graph alone."""
        hidden = self._graph_units(parents, chain)
        inputs = [frozenset([i]) for i in range(self.input_dim)]
        layers = [inputs, *hidden, [*parents] * self.params_per_input]
        return [mask_between(*pair, self.input_dim) for pair in pairwise(layers)]

    def _graph_units(self, parents: Reads, chain: Sequence[int]) -> list[Reads]:
        """Finds what the units of each hidden layer read, and counts them by degree."""
        position = [chain.index(i) for i in range(self.input_dim)]
        lowest = 0 if self.context_dim else 1
        hidden = [
            hidden_reads("MaskedMLP", parents, position, width, lowest)
            for width in self.hidden_dims
        ]
        self.counts = tuple(
            _counts([degree(reads, position) for reads in layer], self.input_dim)
            for layer in hidden
        )
        return hidden

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Loads order and graph, which decide the counts of units by degree."""
        super()._load_from_state_dict(*args, **kwargs)
        if self.adjacency is not None and not self.adjacency.is_meta:
            self._graph_units(
                parents_of("MaskedMLP", self.adjacency, self.input_dim), self.order.tolist()
            )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: shape ``(input_dim, *batch)``.
            context: shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of shape ``(params_per_input * input_dim, *batch)``, contiguous:
            ``.view(params_per_input, input_dim, *batch)`` has the parameters leading.
        """
        check_inputs("MaskedMLP", x, context, self.input_dim, self.context_dim)
        return evaluate(self, encode(self.features, x), context)

    @property
    def permutation(self) -> Tensor:
        """The order, under the name that Pyro's networks give it."""
        return self.order

    def get_permutation(self) -> Tensor:
        """The order, as Pyro's networks say it."""
        return self.order

    def layer_values(self, context: Tensor | None = None) -> tuple[LinearValues, ...]:
        """Reads the masked weight and the shift of every layer, hidden ones first, each once.

        Args:
            context: shape ``(*context_batch, context_dim)``.

        Returns:
            For each layer ``(weight, shift)``: ``(width, width before)`` and
            ``(width, *context_batch)``, ``(width,)`` where no context enters.
        """
        check_context("MaskedMLP", context, self.context_dim)
        return tuple(linear.values(context) for linear in (*self.hidden, self.output))

    def depends_on(self) -> Tensor:
        """Finds which inputs the parameters of each input see.

        Returns:
            Boolean tensor ``(input_dim, input_dim)``: entry (d, e) says whether the parameters of
            input d depend on input e.
        """
        reach = torch.eye(self.input_dim, device=self.order.device)
        reach = reach.repeat_interleave(features_per_input(self.features), 0)
        for linear in (*self.hidden, self.output):
            reach = (linear.mask.to(reach) @ reach).clamp(max=1)
        return reach.view(self.params_per_input, self.input_dim, -1)[0] > 0


def _degrees(input_dim: int, width: int, with_context: bool) -> list[int]:  # noqa: FBT001
    """Spreads ``width`` degrees evenly over the range, ascending, the lowest always among them."""
    lowest = 0 if with_context else 1
    count = max(1, input_dim - lowest)
    if width >= count:
        return [lowest + unit * count // width for unit in range(width)]
    return [lowest + unit * (count - 1) // max(1, width - 1) for unit in range(width)]


def _counts(degrees: Sequence[int], input_dim: int) -> tuple[int, ...]:
    """Counts for each position p the units of degree ≤ p."""
    return tuple(sum(k <= p for k in degrees) for p in range(input_dim))


def permutation(
    order: Sequence[int] | Tensor | None,
    input_dim: int,
    *,
    owner: str = "MaskedMLP",
    name: str = "order",
) -> list[int]:
    """Returns ``order`` as a list, by default the natural one, or raises."""
    chain = list(range(input_dim))
    if order is None:
        return chain
    if not isinstance(order, (Tensor, Sequence)):
        raise TypeError(
            f"{owner} got {name}={order!r}. Pass every integer from 0 to {input_dim - 1} once."
        )
    given = order.tolist() if isinstance(order, Tensor) else list(order)
    if any(type(i) is not int for i in given) or sorted(given) != chain:
        raise ValueError(
            f"{owner}(input_dim={input_dim}) got {name}={given}, no permutation of its inputs. "
            f"Pass every integer from 0 to {input_dim - 1} once."
        )
    return given
