"""Vector fields: what an ordinary differential equation integrates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_nf.nn._linear import check_context

Values = dict[str, Tensor]
"""All numbers that one solve depends on besides t and z, by name."""


class Field(nn.Module):
    r"""A vector field :math:`f(t, z, c)` whose weights are read once for many evaluations.

    A solver evaluates a field a hundred times with the same weights and context. So what depends
    on these alone is computed once, by :meth:`read`, and every evaluation is a function of those
    values, of the time and of the state: :meth:`velocity`, and :meth:`with_products` for the
    products of its Jacobian with vectors. A field that knows its divergence in closed form says so
    by ``closed_divergence`` and implements :meth:`with_divergence`.

    The state is features first: z has shape ``(input_dim, columns)``.

    Attributes:
        input_dim: Number D of dimensions of the state.
        context_dim: Size of the context; 0 for none.
        closed_divergence: Whether :meth:`with_divergence` exists.
        side_rates: Names of further rates, one number a column, see :meth:`side_rate`.
    """

    input_dim: int
    context_dim: int = 0
    closed_divergence: bool = False
    side_rates: tuple[str, ...] = ()

    def read(self, context: Tensor | None, batch: torch.Size) -> Values:
        """Reads the weights, each once, and computes what depends on them and the context alone.

        Args:
            context: Shape ``(*context_batch, context_dim)``, or None.
            batch: The batch of the state, at least that of the context; ``columns`` is its size.

        Returns:
            Tensors by name. Nothing else that requires a gradient may enter an evaluation.
        """
        raise NotImplementedError

    def velocity(self, values: Values, t: Tensor, z: Tensor) -> Tensor:
        """Evaluates the field.

        Args:
            values: What :meth:`read` returned.
            t: The time, without dimensions (as solvers ask) or one for each column (as
                simulation-free training does), shape ``(columns,)``.
            z: Shape ``(input_dim, columns)``.

        Returns:
            The velocity dz/dt, of the shape of z.
        """
        raise NotImplementedError

    def with_products(
        self, values: Values, t: Tensor, z: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluates the field and the products J v of its Jacobian ∂f/∂z with vectors v.

        Args:
            values: What :meth:`read` returned.
            t: The time, without dimensions.
            z: Shape ``(input_dim, columns)``.
            directions: K vectors for each column, shape ``(input_dim, K, columns)``, or the same
                for all columns, ``(input_dim, K, 1)``.

        Returns:
            The velocity and the products, of shape ``(input_dim, K, columns)``.
        """
        raise NotImplementedError

    def with_divergence(self, values: Values, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the field and its divergence tr ∂f/∂z, of shape ``(columns,)``."""
        raise NotImplementedError

    def side_rate(self, name: str, values: Values, t: Tensor, z: Tensor) -> Tensor:
        """Evaluates the rate of this name among ``side_rates``, of shape ``(columns,)``."""
        raise NotImplementedError

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the field on rows.

        Args:
            t: The time, without dimensions, or one for each row, of shape ``(*batch, 1)``.
            z: Shape ``(*batch, input_dim)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts with that of z.

        Returns:
            The velocity dz/dt, shape ``(*batch, input_dim)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        columns, values, batch = self.columns(z, context)
        t = t if t.ndim == 0 else t.expand(*batch, 1).reshape(math.prod(batch))
        return self.velocity(values, t, columns).t().reshape(*batch, self.input_dim)

    def columns(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Values, torch.Size]:
        """Checks rows z and their context as :meth:`forward` takes them, and reads the weights.

        Returns:
            The state ``(input_dim, columns)``, the values and the batch that both broadcast to.
        """
        owner = type(self).__name__
        if z.ndim == 0 or z.shape[-1] != self.input_dim:
            raise ValueError(
                f"{owner}(input_dim={self.input_dim}) got z of shape {tuple(z.shape)}. "
                f"Pass shape (*batch, {self.input_dim})."
            )
        check_context(owner, context, self.context_dim)
        batch = z.shape[:-1]
        if context is not None:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
        columns = z.expand(*batch, self.input_dim).reshape(math.prod(batch), self.input_dim).t()
        return columns, self.read(context, batch), batch
