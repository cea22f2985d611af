"""The flow guide for models with a latent, or several, in each row of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor, nn

from pyro_nf._checks import positive_float, positive_int
from pyro_nf._modes import in_mode
from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer._latents import LatentSpace
from pyro_nf.infer._path_gradient import constant
from pyro_nf.infer.autoguide._amortized_draws import (
    sample_globals,
    sample_rows,
    sample_vector,
)
from pyro_nf.infer.autoguide._amortized_features import (
    RowEncoder,
    RowTable,
    check_callables,
    joined,
)
from pyro_nf.infer.autoguide._amortized_posterior import (
    LocalFlow,
    RowPosterior,
    global_posterior,
    row_posterior,
    standardised,
)
from pyro_nf.infer.autoguide._amortized_setup import find_layout
from pyro_nf.infer.autoguide._guide import FlowGuide
from pyro_nf.infer.autoguide._posterior import (
    Affine,
    FlowLike,
    PosteriorFlow,
    affine_kind,
    supports_path,
)
from pyro_nf.infer.autoguide._quantiles import site_quantiles

_OWNER = "AutoAmortizedFlow"
_ROWS_AT_ONCE = 100_000


class AutoAmortizedFlow(FlowGuide):
    r"""A guide for a plate of latents, which may show only a part of its rows at a time.

    With global latents θ outside of the plate, latents z_i in its N rows and data y_i,

    .. math:: q(\theta, z) = q(\theta) \prod_{i=1}^N q(z_i \mid \theta, h_i), \qquad
        h_i = \mathrm{encoder}(y_i),

    where q(θ) is a flow as in :class:`AutoFlow`, and q(z_i | θ, h_i) one conditional flow that all
    rows share: base, flow, a location and log-scale linear in θ and h_i, and a fixed frame; θ
    enters in the coordinates before its affine layer, where it is of unit size. The posterior
    factorises so too: given θ and its data a row depends on no other. Without an encoder each row
    has parameters of its own instead of h_i, a location and a log-scale for each dimension, and a
    step trains those of the rows it sees.

    The guide owns the plate and draws its indices; the model's plate of the same name sees the
    same rows. Of n rows, their density and its Jacobians are scaled by N/n, so that the ELBO of a
    batch estimates that of all rows without bias. ``subsample_size`` in the model's plate says how
    many are drawn. Where the batches come from outside, ``create_plates`` says which rows they
    are; indices that the guide and the data would not share are refused.

    Train it by :func:`~pyro_nf.infer.fit_guide` or any of Pyro's ways. A row's latents are no
    fixed vector, so this is no ``AutoContinuous``: NeuTra and Laplace approximations refuse it.

    Cost: a step takes one pass of the global flow, of the encoder for each row shown, and of the
    local flow for each row and particle, whatever N.

    Warning:
        Adam with many rows and small batches moves a row's own parameters seldom: an encoder
        learns from every row. And a *full* plate whose size follows the data, called with one
        batch after another, is a model of that batch alone: no guide sees that rows are missing.

    Args:
        model: The model.
        encoder: Module, or function, from n rows of data to features of shape ``(n, H)``; None for
            parameters of each row.
        data: Called as ``data(index, *args, **kwargs)`` with row numbers ``(n,)`` and the model's
            arguments, it returns what the encoder reads; needed with an encoder.
        create_plates: Function of the model's arguments that returns the plate with the indices of
            the batch, as for Pyro's autoguides.
        plate: Name of the plate with the rows; None for the subsampled one, or the only one.
        global_flow: The flow of θ, as ``flow`` of :class:`AutoFlow`.
        local_flow: The conditional flow of a row: a name from :mod:`pyro_nf.flows`, a function
            from the number of dimensions and of features to a flow or transforms, or None for the
            location and log-scale alone, which is a Gaussian. ``"iaf"`` is two affine
            autoregressive layers, and a spline where a row has one dimension.
        init_loc_fn: First values of the latents, as for Pyro's autoguides.
        init_scale: First standard deviation of each global latent, unconstrained; that of a row's
            is 1. Global latents are known the better the more rows there are.
        affine: The affine layer of θ, as for :class:`AutoFlow`.
        tails: The base of θ, as for :class:`AutoFlow`.
        path_gradient: As for :class:`AutoFlow`; None: within :meth:`path_gradients` alone.
        name: Prefix of the parameters in Pyro's store, as for :class:`AutoFlow`.

    Attributes:
        latents: The global latents, after set-up; None without any.
        row_latents: The latents of one row, after set-up.
        num_rows: Number N of rows, after set-up.
        posterior: The flow of the global latents as a module, after set-up.
        row_posterior: The conditional flow as a module, after set-up.
        features: Module with the encoder, or with the rows' own parameters after set-up.

    Raises:
        ValueError: At set-up, if no latent lies in a plate or the plate is ambiguous, if guide and
            model would see different rows, if supports differ between rows, or for what
            :class:`AutoFlow` refuses.

    References:
        - Auto-encoding variational Bayes (Kingma & Welling, 2014), arXiv:1312.6114.
        - Amortized variational inference for simple hierarchical models (Agrawal & Domke, 2021),
          arXiv:2111.03144.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import AutoAmortizedFlow
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(y), subsample_size=10) as index:
        ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
        ...         pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])
        >>> y = torch.ones(100)
        >>> encoder = torch.nn.Linear(1, 4)
        >>> guide = AutoAmortizedFlow(model, encoder, data=lambda index, y: y[index, None])
        >>> guide(y)["z"].shape, guide.num_rows
        (torch.Size([10]), 100)
        >>> guide.median(y, num_samples=50)["z"].shape
        torch.Size([100])
    """

    prototype_trace: poutine.Trace | None
    latents: LatentSpace | None
    row_latents: LatentSpace
    posterior: PosteriorFlow | None
    row_posterior: RowPosterior
    features: RowTable | RowEncoder
    num_rows: int

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[[Any], Tensor] | None = None,
        *,
        data: Callable[..., Any] | None = None,
        create_plates: Callable[..., Any] | None = None,
        plate: str | None = None,
        global_flow: FlowLike = "realnvp",
        local_flow: LocalFlow | None = "iaf",
        init_loc_fn: Callable[[dict[str, Any]], Tensor] = init_to_origin,
        init_scale: float = 0.1,
        affine: Affine | Literal["auto"] | None = "auto",
        tails: Literal["student"] | nn.Module | None = None,
        path_gradient: bool | None = None,
        name: str | None = None,
    ) -> None:
        check_callables(model=model, encoder=encoder, data=data, create_plates=create_plates)
        super().__init__(InitMessenger(init_loc_fn)(model), create_plates=create_plates)
        self._begin(model, name, path_gradient)
        self._init_loc_fn = init_loc_fn
        self._per_row = encoder is None
        if encoder is not None and data is not None:
            self.features = RowEncoder(encoder, data)
        self._flow_likes, self._affine, self._tails = (global_flow, local_flow), affine, (tails,)
        affine_kind(_OWNER, affine, 1)
        self.init_scale = positive_float(_OWNER, "init_scale", init_scale)
        self._plate_wish = plate

    def setup(self, *args: Any, **kwargs: Any) -> AutoAmortizedFlow:
        """Makes the parameters, given the model's arguments; the first call of the guide does too.

        Args:
            *args: The model's arguments.
            **kwargs: The model's keyword arguments.

        Returns:
            The guide itself.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        layout = find_layout(
            _OWNER,
            self._bare_model[0],
            args,
            kwargs,
            init_loc_fn=self._init_loc_fn,
            create_plates=self._plate_maker(),
            plate=self._plate_wish,
            per_row=self._per_row,
        )
        super()._setup_prototype(*args, **kwargs)
        self.latents, self.row_latents = layout.latents, layout.row_latents
        self._plate, self.num_rows = layout.plate, layout.plate.full_size
        try:
            self.posterior = None if layout.loc is None else self._make_posterior(layout.loc)
            self.row_posterior = self._make_row_posterior(layout.row_loc, args, kwargs)
        except BaseException:
            self.prototype_trace = None  # by which all else tells whether the guide is set up
            raise

    def _plate_maker(self) -> Callable[..., Any] | None:
        """The ``create_plates`` of this guide, or of the AutoGuideList that it is part of."""
        return self.create_plates if self.master is None else self.master().create_plates

    def _make_posterior(self, loc: Tensor) -> PosteriorFlow:
        flow, tails = self._flow_likes[0], self._tails[0]
        return global_posterior(_OWNER, flow, self._affine, tails, loc, self.init_scale)

    def _make_row_posterior(
        self, loc: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RowPosterior:
        if self._per_row:
            self.features = RowTable(self.num_rows, len(loc), loc)
        rows = self._rows(args, kwargs)
        rows = rows[:2] if self._plate_maker() is None else rows
        with torch.no_grad(), in_mode(self.features, "eval"):
            context_dim = self.features(rows, args, kwargs).shape[-1]
        context_dim += 0 if self.latents is None else self.latents.dim
        flow = self._flow_likes[1]
        return row_posterior(_OWNER, flow, context_dim, loc, table=self._per_row)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws the global latents and those of the rows that the plate shows.

        Args:
            *args: The model's arguments.
            **kwargs: The model's keyword arguments.

        Returns:
            A dict from site to value.
        """
        self.setup(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        path, dtype = self._takes_path(), self.row_latents.dtype
        values: dict[str, Tensor] = {}
        given, constants = [], []
        if self.latents is not None and self.posterior is not None:
            posterior = self.posterior
            q = posterior("path" if path else "plain")
            x = sample_vector(f"_{self._pyro_name}_globals", q)
            values = sample_globals(self.latents, x, plates)
            given.append(standardised(posterior, x).to(dtype))
            if path:
                with constant(posterior):
                    constants.append(standardised(posterior, x).to(dtype))
        features, row_posterior = self.features, self.row_posterior  # registers their parameters
        with plates[self._plate.name] as index:
            own = features(index, args, kwargs).to(dtype)
            own = own.reshape(len(own), *(1,) * (-self._plate.dim - 1), own.shape[-1])
            scoring = joined([*constants, own.detach()]) if path else None
            q = row_posterior(joined([*given, own]), scoring)
            x = sample_vector(f"_{self._pyro_name}_rows", q)
            return values | sample_rows(self.row_latents, x, plates, self._plate.dim)

    def _takes_path(self) -> bool:
        if self.path_gradient is not None:
            return self.path_gradient
        parts = [p for p in (self.posterior, self.row_posterior) if p is not None]
        return self._within_fit and all(supports_path(part.transform) for part in parts)

    @torch.no_grad()
    def median(
        self, *args: Any, rows: Tensor | None = None, num_samples: int = 10_000, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Estimates each latent's median from draws.

        Args:
            *args: The model's arguments.
            rows: As for :meth:`quantiles`.
            num_samples: Number of draws.
            **kwargs: The model's keyword arguments.

        Returns:
            A dict from site to a tensor of the site's shape, with all ``rows`` in the plate.
        """
        found = self.quantiles([0.5], *args, rows=rows, num_samples=num_samples, **kwargs)
        return {name: value.squeeze(0) for name, value in found.items()}

    @torch.no_grad()
    def quantiles(
        self,
        quantiles: Sequence[float] | Tensor,
        *args: Any,
        rows: Tensor | None = None,
        num_samples: int = 10_000,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Estimates quantiles of each latent from draws.

        Args:
            quantiles: Probabilities between 0 and 1.
            *args: The model's arguments. With an encoder they may hold other data than the guide
                was trained on, of any number of rows; then ``rows`` says which are wanted.
            rows: Row numbers ``(n,)``, as ``data`` takes them; None for all rows, or with
                ``create_plates`` for those of its plate.
            num_samples: Number of draws.
            **kwargs: The model's keyword arguments.

        Returns:
            A dict from site to a tensor of shape ``(len(quantiles), *site_shape)``, where a site
            in the plate has all of ``rows`` there.
        """
        self.setup(*args, **kwargs)
        positive_int(f"{_OWNER}.quantiles", "num_samples", num_samples)
        rows = self._rows(args, kwargs) if rows is None else rows
        dtype, given = self.row_latents.dtype, []
        found: dict[str, Tensor] = {}
        if self.latents is not None and self.posterior is not None:
            x = self.posterior().sample((num_samples,))
            given.append(standardised(self.posterior, x).to(dtype).unsqueeze(1))
            found = site_quantiles(self.latents, x, quantiles)
        parts: list[dict[str, Tensor]] = []
        encoded = self.features(rows, args, kwargs).to(dtype)
        for own in encoded.split(max(1, _ROWS_AT_ONCE // num_samples)):
            context = joined([*given, own])
            u = self.row_posterior(context).sample((num_samples,) if context.ndim == 2 else ())
            parts.append(site_quantiles(self.row_latents, u, quantiles))
        return found | {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def _rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The numbers of all rows, or of those in the user's plate."""
        if self._plate_maker() is None:
            return torch.arange(self.num_rows)
        with poutine.block(), self._create_plates(*args, **kwargs)[self._plate.name] as index:
            return torch.as_tensor(index)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads what ``state_dict`` returned, into a guide that is set up."""
        if self.prototype_trace is None:
            raise RuntimeError(
                f"{_OWNER} has no parameters before it has seen the model's arguments. Call "
                "guide.setup(*args, **kwargs) with them once."
            )
        return super().load_state_dict(state_dict, *args, **kwargs)
