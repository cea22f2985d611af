"""The importance-weighted ELBO with doubly reparameterised gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.infer._draws import Pair
from pyro_nf.infer._iw_passes import Runner, Weighing
from pyro_nf.infer._iw_weights import LogWeights

_OWNER = "IWELBO"


class IWELBO(ELBO):
    r"""The evidence lower bound of K draws that are weighed against one another.

    .. math:: \mathcal L_K = \mathbb E\Big[\log \frac1K \sum_{k=1}^K w_k\Big], \qquad
        w_k = \frac{p(x, z_k)}{q_\phi(z_k)}

    It rises with K from the ELBO (K = 1) to the log evidence. In plates that surround all sites of
    model and guide, such as the plate of the data of a variational autoencoder, each row has
    weights of its own and the bounds of the rows add up, which is tighter.

    The plain gradient in :math:`\phi` drowns in noise as K grows. With
    ``gradient="doubly_reparameterized"`` it is

    .. math:: \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}, \qquad \tilde w_k = \frac{w_k}{\sum_j w_j},

    of the same mean, and zero where q is the posterior; for K = 1 it is the path gradient
    ("sticking the landing"). Parameters of the model, and those of a deterministic part of the
    guide, keep the weights :math:`\tilde w_k`.

    Works with guides whose draws are all reparameterised: flows, Pyro's continuous autoguides and
    guides written by hand, such as an encoder with a conditional flow. Discrete latents have no
    such gradient.

    Cost: K runs of model and guide, plus one run of the guide that scores its draws by constant
    parameters (two if it has ``Delta`` sites), which takes a flow through its inverse.

    Args:
        num_particles: Number K of draws that are weighed against one another.
        gradient: The estimator of the gradient: "doubly_reparameterized", or "standard" for the
            plain one.
        replicates: Independent groups of K draws whose bounds are averaged, which takes noise off
            the gradient without changing the bound.
        vectorize_particles: Whether all draws run at once under an outermost plate. None: if a
            test of values at the first step finds the plate right; a model that sums over
            particles would else give wrong numbers without an error.
        max_plate_nesting: How deep plates nest, the plate of particles left out; only read where
            ``vectorize_particles=True``, and guessed from a run if not given.

    Attributes:
        num_particles: Draws in a step: K times ``replicates``.

    Raises:
        ValueError: At a step: if a latent of the guide is not reparameterised, or one of the model
            is not in the guide; if a mini-batch is weighed together with latents outside of its
            plate, whose weights would be noise; if a second run of the guide scores its draws in
            another way (dropout, say); with the standard gradient if the guide takes path
            gradients, which are biased under weights.

    References:
        - Importance Weighted Autoencoders (Burda, Grosse, Salakhutdinov, 2016), arXiv:1509.00519.
        - Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker, Lawson,
          Gu, Maddison, 2019), arXiv:1810.04152.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> y = torch.tensor(0.5)
        >>> guide = AutoFlow(model, init_scale=0.3).setup(y)
        >>> bounds = [-infer.IWELBO(K, replicates=500).loss(model, guide, y) for K in (1, 50)]
        >>> bounds[0] < bounds[1] < dist.Normal(0.0, 2**0.5).log_prob(y) + 0.1
        tensor(True)
    """

    def __init__(
        self,
        num_particles: int = 8,
        *,
        gradient: Literal["doubly_reparameterized", "standard"] = "doubly_reparameterized",
        replicates: int = 1,
        vectorize_particles: bool | None = None,
        max_plate_nesting: float = math.inf,
    ) -> None:
        options = ("doubly_reparameterized", "standard")
        self.gradient = choice(_OWNER, "gradient", gradient, options)
        self.importance_samples = positive_int(_OWNER, "num_particles", num_particles)
        self.replicates = positive_int(_OWNER, "replicates", replicates)
        self._undecided, self._checked = vectorize_particles is None, False
        super().__init__(
            num_particles=num_particles * replicates,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=bool(vectorize_particles),
        )

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative bound, in nats.

        Args:
            model: The model.
            guide: The guide.
            *args: Their arguments.
            **kwargs: Their keyword arguments.
        """
        runners = self._runners(model, guide, args, kwargs)
        return -float(self._bound(self._joined([r.plain(gradient=False) for r in runners]))[0])

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Estimates the negative bound as a tensor whose gradient is the estimator's.

        Args:
            model: The model.
            guide: The guide.
            *args: Their arguments.
            **kwargs: Their keyword arguments.
        """
        runners = self._runners(model, guide, args, kwargs)
        weighing = Weighing()
        if self.gradient == "standard":
            passes = [runner.plain(gradient=True) for runner in runners]
        else:
            passes = [
                runner.doubly_reparameterized(weighing, i, check=not self._checked)
                for i, runner in enumerate(runners)
            ]
            self._checked = True
        joined = self._joined(passes)
        bound, weights = self._bound(joined)
        # A single run holds all draws: its own dimension of draws is not one of runs.
        weighing.weights = weights.unsqueeze(0) if self._at_once else weights
        surrogate = (weights * joined.values).sum() * joined.scale / self.replicates
        return -(bound + surrogate - surrogate.detach())

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative bound and adds the gradient to ``.grad`` of the parameters.

        Args:
            model: The model.
            guide: The guide.
            *args: Their arguments.
            **kwargs: Their keyword arguments.
        """
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """One run of guide and model, for Pyro's guess of how deep plates nest."""
        nesting = self.max_plate_nesting
        return get_importance_trace("flat", nesting, model, guide, args, kwargs)

    @property
    def _at_once(self) -> bool:
        return self.vectorize_particles and self.num_particles > 1

    def _runners(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[Runner]:
        """What is to be run: once for all draws, or for each."""
        if self._undecided:
            pair = Pair(model, guide, args, kwargs)
            self._undecided = False
            self.vectorize_particles = pair.particles == "plate"
            self.max_plate_nesting = pair.nesting + (1 if self._at_once else 0)
        if self.vectorize_particles and math.isinf(self.max_plate_nesting):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        count = self.num_particles
        if self._at_once:
            model, guide = map(self._vectorized_num_particles, (model, guide))
            count = 1
        for _ in range(count):
            yield Runner(model, guide, args, kwargs, self.max_plate_nesting)

    def _joined(self, passes: list[LogWeights]) -> LogWeights:
        """Log weights of all draws, ``(draws, *dims)``."""
        if self._at_once:
            return passes[0]
        return LogWeights(torch.stack([one.values for one in passes]), passes[0].scale)

    def _bound(self, log_weights: LogWeights) -> tuple[Tensor, Tensor]:
        """The bound, and the weights normalised over each group of K draws, as constants."""
        values = log_weights.values.detach()
        rows = values.reshape(self.replicates, self.importance_samples, *values.shape[1:])
        bounds = torch.logsumexp(rows, 1) - math.log(self.importance_samples)
        bound = bounds.mean(0).sum() * log_weights.scale
        return bound, torch.softmax(rows, 1).reshape(values.shape)
