"""Leave-one-out cross-validation from a guide's own draws."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch

from pyro_nf.infer._arviz.package import installed_arviz, is_version_one
from pyro_nf.infer._psis import psis

_OWNER = "loo_approximate_posterior"


def loo_approximate_posterior(
    data: Any, *, var_name: str | None = None, pointwise: bool | None = None
) -> Any:
    r"""Estimates how well a model predicts left-out data, from raw draws of a guide.

    The draws :math:`\theta_n \sim q` stand for the posterior without datum i by the weights

    .. math:: r_{in} = \frac{1}{p(y_i \mid \theta_n)} \, \frac{p(y, \theta_n)}{q(\theta_n)}

    whose second factor corrects the guide. Pareto-smoothed, they give the expected log predictive
    density :math:`\sum_i \log \sum_n r_{in} p(y_i \mid \theta_n) / \sum_n r_{in}` and a k̂ for each
    datum. Draws that :func:`~pyro_nf.infer.to_arviz` has resampled by weight need no such
    correction: for them there is :func:`arviz.loo`.

    ArviZ has it from version 1 on; before, the estimate is made here, in the form of
    :func:`arviz.loo`, so that :func:`arviz.compare` takes it. The effective number of parameters
    then compares with the posterior that the weights correct to, not with the guide.

    Args:
        data: What ``to_arviz(..., weights="raw")`` returned.
        var_name: The observed site; may be left out if there is one.
        pointwise: Whether to return the values of each datum, too; None for ArviZ's setting.

    Returns:
        ArviZ's ``ELPDData`` (``ELPDDataLOO`` from version 1 on).

    Raises:
        ValueError: If the draws were resampled by weight, a group is missing, or several observed
            sites leave the choice open.

    Warns:
        UserWarning: If k̂ of a datum is too large for the estimate to be trusted.

    References:
        Bayesian leave-one-out cross-validation for large data (Magnusson, Riis Andersen, Jonasson,
        Vehtari, 2019), arXiv 1904.10679.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> y = torch.tensor([1.0, 0.0, 2.0])
        >>> guide = AutoFlow(model, init_scale=1.0).setup(y)
        >>> data = infer.to_arviz(model, guide, y, weights="raw", num_samples=2000)
        >>> infer.loo_approximate_posterior(data).n_data_points
        3
    """
    arviz = installed_arviz()
    attributes = data.attrs or data["posterior"].attrs
    if attributes.get("weights") == "psis":
        raise ValueError(
            f"{_OWNER} got draws that were resampled by weight, which would count the weights "
            "twice. Call arviz.loo on them, or pass what to_arviz(..., weights='raw') returned."
        )
    stats = _group(data, "sample_stats", ("log_p", "log_q"))
    if is_version_one(arviz):
        return arviz.loo_approximate_posterior(
            data,
            log_p=stats["log_p"],
            log_q=stats["log_q"],
            var_name=var_name,
            pointwise=pointwise,
        )
    scores = _group(data, "log_likelihood", () if var_name is None else (var_name,))
    if var_name is None:
        names = list(scores.data_vars)
        if len(names) != 1:
            raise ValueError(
                f"{_OWNER} got log likelihoods of {', '.join(names)}. Pass var_name, one of them."
            )
        var_name = names[0]
    if pointwise is None:
        pointwise = arviz.rcParams["stats.ic_pointwise"]
    return _estimate(
        scores[var_name].transpose("chain", "draw", ...),
        (stats["log_p"] - stats["log_q"]).transpose("chain", "draw").values.reshape(-1),
        pointwise=pointwise,
    )


def _group(data: Any, group: str, names: tuple[str, ...]) -> Any:
    """A group with some variables."""
    found = data[group] if group in data else {}
    missing = [name for name in names if name not in found]
    if missing or not len(found):
        raise ValueError(
            f"{_OWNER} found no {', '.join(missing or ['variables'])} in the group {group!r}. "
            "Pass what to_arviz(..., weights='raw') returned."
        )
    return found


def _estimate(scores: Any, log_weights: np.ndarray, *, pointwise: bool) -> Any:
    """The estimate in the form of ArviZ 0's ``loo``."""
    from arviz.stats.stats_utils import ELPDData

    weights = torch.as_tensor(log_weights).double()
    count = len(weights)
    rows = torch.as_tensor(scores.values).double().reshape(count, -1)  # (draws, data)
    smoothed = [psis(weights - row) for row in rows.unbind(1)]
    log_ratios = torch.stack([log_ratio for log_ratio, _ in smoothed], 1)  # (draws, data)
    elpd = torch.logsumexp(log_ratios + rows, 0)  # (data,)
    in_sample = torch.logsumexp(psis(weights)[0][:, None] + rows, 0)
    k_hats = np.array([k_hat for _, k_hat in smoothed])
    good_k = min(1 - 1 / math.log10(count), 0.7)
    bad = bool((k_hats > good_k).any())
    if bad:
        warnings.warn(
            f"{_OWNER}: k_hat is above {good_k:.2f} for {int((k_hats > good_k).sum())} of "
            f"{len(k_hats)} data, whose estimates cannot be trusted. Improve the guide, or use a "
            "model that is less surprised by them.",
            stacklevel=3,
        )
    found: dict[str, Any] = {
        "elpd_loo": float(elpd.sum()),
        "se": math.sqrt(len(elpd) * float(elpd.var(correction=0))),
        "p_loo": float((in_sample - elpd).sum()),
        "n_samples": count,
        "n_data_points": len(elpd),
        "warning": bad,
    }
    if pointwise:
        like = scores.isel(chain=0, draw=0, drop=True)
        found["loo_i"] = like.copy(data=elpd.numpy().reshape(like.shape)).rename("loo_i")
        found["pareto_k"] = like.copy(data=k_hats.reshape(like.shape)).rename("pareto_shape")
    found |= {"scale": "log", "good_k": good_k}
    return ELPDData(data=list(found.values()), index=list(found))
