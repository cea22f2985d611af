"""Pyro's conditional classes whose network reads a context beside the event.

One class takes either kind of network. These are the same layers, and refuse a network that reads
no context: conditioning would have no effect.
"""

from __future__ import annotations

from pyro_nf.transforms._pyro.affine_autoregressive import AffineAutoregressive
from pyro_nf.transforms._pyro.affine_coupling import AffineCoupling
from pyro_nf.transforms._pyro.neural_autoregressive import NeuralAutoregressive
from pyro_nf.transforms._pyro.spline_autoregressive import SplineAutoregressive


class ConditionalAffineAutoregressive(AffineAutoregressive):
    """An :class:`AffineAutoregressive` whose network must read a context, as Pyro's.

    Arguments, cost, errors and source are those of :class:`AffineAutoregressive`.

    Examples:
        >>> import torch
        >>> from pyro.nn import ConditionalAutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalAffineAutoregressive(ConditionalAutoRegressiveNN(3, 2, [10]))
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    needs_context = True


class ConditionalAffineCoupling(AffineCoupling):
    """An :class:`AffineCoupling` whose network must read a context, as Pyro's.

    Arguments, cost, errors and source are those of :class:`AffineCoupling`.

    Examples:
        >>> import torch
        >>> from pyro.nn import ConditionalDenseNN
        >>> from pyro_nf import transforms as T
        >>> hypernet = ConditionalDenseNN(2, 4, [10], param_dims=[3, 3])
        >>> layer = T.ConditionalAffineCoupling(2, hypernet)
        >>> layer.condition(torch.zeros(7, 4))(torch.ones(7, 5)).shape
        torch.Size([7, 5])
    """

    needs_context = True


class ConditionalNeuralAutoregressive(NeuralAutoregressive):
    """A :class:`NeuralAutoregressive` whose network must read a context, as Pyro's.

    Arguments, cost, errors and source are those of :class:`NeuralAutoregressive`.

    Examples:
        >>> import torch
        >>> from pyro.nn import ConditionalAutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> arn = ConditionalAutoRegressiveNN(3, 2, [10], param_dims=[8, 8, 8])
        >>> layer = T.ConditionalNeuralAutoregressive(arn, hidden_units=8)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    needs_context = True


class ConditionalSplineAutoregressive(SplineAutoregressive):
    """A :class:`SplineAutoregressive` whose network must read a context, as Pyro's.

    Arguments, cost, errors and source are those of :class:`SplineAutoregressive`.

    Examples:
        >>> import torch
        >>> from pyro.nn import ConditionalAutoRegressiveNN
        >>> from pyro_nf import transforms as T
        >>> arn = ConditionalAutoRegressiveNN(3, 2, [10], param_dims=[4, 4, 3])
        >>> layer = T.ConditionalSplineAutoregressive(3, arn, count_bins=4, order="quadratic")
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    needs_context = True
