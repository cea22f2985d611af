"""Continuous flows: FFJORD, RNODE and OT-Flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pyro_nf._checks import positive_int
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble
from pyro_nf.flows._image_forms import cnf_of_images
from pyro_nf.flows._images import is_image, only_for_vectors
from pyro_nf.nn import FieldMLP, PotentialField
from pyro_nf.nn._smooth import Smooth
from pyro_nf.nn._time_linear import TimeConditioning
from pyro_nf.transforms import Continuous, FlowTransform


def cnf(
    input_dim: int | Sequence[int],
    *,
    transforms: int = 1,
    hidden_dims: Sequence[int] | None = None,
    context_dim: int = 0,
    activation: Smooth = "tanh",
    time: TimeConditioning | None = None,
    gain: float = 1.0,
    base: nn.Module | None = None,
    support: Support | None = None,
    **options: Any,
) -> Flow:
    r"""Creates a continuous normalizing flow (FFJORD): data as the end of an equation's solution.

    .. math:: \frac{dz}{dt} = f(t, z, c), \qquad
        \log p(y) = \log p_{\text{base}}(z(0)) - \int_0^1 \operatorname{tr}
        \frac{\partial f}{\partial z} \, dt

    The field f is a perceptron, its divergence in closed form up to two hidden layers, so that
    training and scoring are free of noise. Cost: one solve in either direction, 30 to 200
    evaluations of the field, more as the fit grows sharper.

    Of images the field is convolutional (:class:`~pyro_nf.nn.FieldConv`), and its divergence is
    estimated in training beyond 64 numbers.

    Args:
        input_dim: Number of (unconstrained) dimensions, or channels, height and width.
        transforms: Number of such layers, one after the other, each with a field of its own.
        hidden_dims: Widths of the field's hidden layers; None for (64, 64). Of images: their
            channels; None for (32, 32), beyond 16 × 16 pixels (64, 64).
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: "tanh", "softplus", "silu" or "sin".
        time: How the field depends on the time, see :class:`~pyro_nf.nn.FieldMLP`; None for
            "concat", of images for "concatsquash".
        gain: Spread of the field's initial weights, see there too; not of images.
        base: Base distribution as a module, of flat vectors; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey; of images
            ``constraints.unit_interval`` or None.
        **options: Of :class:`~pyro_nf.transforms.Continuous`: ``solver``, ``steps``, ``rtol``,
            ``atol``, ``gradient``, ``trace``, ``end_time`` and the others.

    Raises:
        TypeError, ValueError: If a size is out of range or an option unknown.
        IntegrationError: From a pass, if the solver gives up.

    References:
        - Neural ordinary differential equations (Chen et al., 2018), arXiv:1806.07366.
        - FFJORD: Free-form continuous dynamics for scalable reversible generative models
          (Grathwohl et al., 2018), arXiv:1810.01367.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.cnf(3, hidden_dims=(16, 16), context_dim=2)
        >>> d = flow(torch.zeros(5, 2))
        >>> d.sample().shape, d.log_prob(torch.zeros(3)).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    if is_image(input_dim):
        only_for_vectors("cnf", gain=(gain, 1.0))
        return cnf_of_images(
            input_dim,
            transforms=transforms,
            hidden_dims=hidden_dims,
            context_dim=context_dim,
            activation=activation,
            time="concatsquash" if time is None else time,
            base=base,
            support=support,
            **options,
        )
    layers: list[FlowTransform] = [
        Continuous(
            FieldMLP(
                input_dim,
                (64, 64) if hidden_dims is None else hidden_dims,
                context_dim=context_dim,
                time="concat" if time is None else time,
                activation=activation,
                gain=gain,
            ),
            **options,
        )
        for _ in range(positive_int("cnf", "transforms", transforms))
    ]
    return assemble(input_dim, layers, base, support)


def rnode(
    input_dim: int,
    *,
    kinetic: float = 0.1,
    jacobian: float = 0.05,
    solver: str = "rk4",
    steps: int | None = 8,
    eval_solver: str | None = "dopri5",
    **options: Any,
) -> Flow:
    r"""Creates a continuous flow that is trained towards straight, slow paths (RNODE).

    A :func:`cnf` whose fit also holds the kinetic energy :math:`\int \lVert f \rVert^2 dt` and
    the size of the Jacobian :math:`\int \lVert \partial f / \partial z \rVert_F^2 dt` small. Of
    all fields with one likelihood they choose one that is easy to integrate: a few fixed steps
    suffice in training, and scoring and sampling, by an adaptive solver, cost fewer evaluations.

    ``fit_density`` adds the two by the flow's ``aux_weights`` unless told otherwise; under another
    objective add the means of what ``flow.auxiliary()`` collects.

    Args:
        input_dim: Number of (unconstrained) dimensions.
        kinetic: Weight of the kinetic energy.
        jacobian: Weight of the Jacobian's size.
        solver: The method in training.
        steps: Its number of steps; None for an adaptive method.
        eval_solver: The method in evaluation.
        **options: Of :func:`cnf`.

    Raises:
        TypeError, ValueError: If a size is out of range or an option unknown.

    References:
        How to train your neural ODE: the world of Jacobian and kinetic regularization (Finlay et
        al., 2020), arXiv:2002.02798.

    Examples:
        >>> from pyro_nf import flows
        >>> flow = flows.rnode(3, hidden_dims=(16, 16))
        >>> flow.aux_weights
        {'kinetic': 0.1, 'jacobian': 0.05}
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    flow = cnf(input_dim, solver=solver, steps=steps, eval_solver=eval_solver, **options)
    flow.aux_weights = {"kinetic": kinetic, "jacobian": jacobian}
    return flow


def ot_flow(
    input_dim: int,
    *,
    hidden_dim: int = 32,
    layers: int = 2,
    rank: int | None = None,
    transforms: int = 1,
    context_dim: int = 0,
    kinetic: float = 0.1,
    hjb: float = 0.05,
    solver: str = "rk4",
    steps: int | None = 8,
    eval_solver: str | None = "dopri5",
    base: nn.Module | None = None,
    support: Support | None = None,
    **options: Any,
) -> Flow:
    r"""Creates a continuous flow along the gradient of a potential (OT-Flow).

    The paths of optimal transport are straight and follow the gradient of a potential that obeys
    a Hamilton–Jacobi–Bellman equation. So the field is f = ∇Φ, with its divergence in closed form
    (:class:`~pyro_nf.nn.PotentialField`), and ``fit_density`` adds the kinetic energy and how far
    Φ is from that equation, "hjb", by the flow's ``aux_weights``.

    Args:
        input_dim: Number of (unconstrained) dimensions.
        hidden_dim: Width of the potential's layers.
        layers: Number of the potential's layers.
        rank: Rank of the potential's quadratic part.
        transforms: Number of such layers, one after the other.
        context_dim: Size of the context; 0 for an unconditional flow.
        kinetic: Weight of the kinetic energy.
        hjb: Weight of the distance from the equation.
        solver: The method in training.
        steps: Its number of steps; None for an adaptive method.
        eval_solver: The method in evaluation.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.
        **options: Of :class:`~pyro_nf.transforms.Continuous`.

    Raises:
        TypeError, ValueError: If a size is out of range or an option unknown.

    References:
        OT-Flow: Fast and accurate continuous normalizing flows via optimal transport (Onken et
        al., 2020), arXiv:2006.00104.

    Examples:
        >>> from pyro_nf import flows
        >>> flow = flows.ot_flow(3, hidden_dim=16)
        >>> flow.aux_weights
        {'kinetic': 0.1, 'hjb': 0.05}
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    chain: list[FlowTransform] = [
        Continuous(
            PotentialField(
                input_dim, hidden_dim, layers=layers, rank=rank, context_dim=context_dim
            ),
            solver=solver,
            steps=steps,
            eval_solver=eval_solver,
            **options,
        )
        for _ in range(positive_int("ot_flow", "transforms", transforms))
    ]
    flow = assemble(input_dim, chain, base, support)
    flow.aux_weights = {"kinetic": kinetic, "hjb": hjb}
    return flow
