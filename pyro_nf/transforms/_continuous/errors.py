"""What a user reads when a solve fails."""

from __future__ import annotations

from pyro_nf.bijections import ConvergenceError


class IntegrationError(ConvergenceError):
    """An ordinary differential equation that could not be integrated from one side to the other.

    A kind of :class:`~pyro_nf.bijections.ConvergenceError`, so a fit skips such a step. A chain of
    NUTS takes it for a divergence, and goes on, once Pyro knows it:
    ``pyro.ops.integrator.register_exception_handler("flow", lambda e: isinstance(e,
    IntegrationError))``.
    """
