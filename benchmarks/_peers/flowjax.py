"""The architectures in flowjax: every operation is one compiled call."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

# Before jax is imported: one thread, on the CPU.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax import flows
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal

from benchmarks._peers import flowjax_weights
from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Contender
from benchmarks._peers.parity import ROWS, SEED, default_dtype, verdict
from benchmarks._peers.weights import randomize


def build(spec: Spec) -> Contender | None:
    """Creates flowjax's flow and its cells; None where it has none."""
    if spec.family in ("naf", "cnf"):
        return None
    words, failed = verdict(difference(spec))
    jax.config.update("jax_enable_x64", torch.get_default_dtype() == torch.float64)
    whole = flow(spec)
    if flowjax_weights.corresponds(spec):
        ours = flowjax_weights.reference(spec)
        randomize(ours, SEED)
        whole = flowjax_weights.adopt(whole, spec, ours, turned=_is_turned(spec))
    trained, constant = _partition(whole)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    return Contender(count, _cells(spec, trained, constant), words, failed)


def difference(spec: Spec) -> float | None:
    """Largest difference of the two log densities on 64 rows, in float64; None without parity."""
    if not flowjax_weights.corresponds(spec):
        return None
    with default_dtype(torch.float64), jax.enable_x64(True):  # noqa: FBT003  (its only form)
        ours = flowjax_weights.reference(spec)
        randomize(ours, SEED)
        theirs = flowjax_weights.adopt(flow(spec), spec, ours, turned=_is_turned(spec))
        theirs = paramax.unwrap(theirs)
        if spec.kind.by_draws:
            x, log_q = theirs.sample_and_log_prob(jr.key(SEED), (ROWS,))
        else:
            x = 1.3 * jr.normal(jr.key(SEED), (ROWS, spec.dim))
            log_q = theirs.log_prob(x)
        if not _is_turned(spec) and spec.transforms % 2:
            x = x[:, ::-1]  # its last reversal
        rows = torch.tensor(np.array(x))
        with torch.no_grad():
            return float((ours().log_prob(rows) - torch.tensor(np.array(log_q))).abs().max())


def _is_turned(spec: Spec) -> bool:
    """Whether its layers are listed from data to base, the fast direction."""
    return not spec.kind.by_draws or spec.family == "maf_inverse"


def _partition(whole: Any) -> tuple[Any, Any]:
    """Parts what is trained from what is not."""
    return equinox.partition(
        whole,
        equinox.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )


def flow(spec: Spec) -> Any:
    """Creates the flow; a spline of K bins has K - 1 inner knots and learns its end slopes."""
    key = jr.key(0)
    base = paramax.non_trainable(Normal(jnp.zeros(spec.dim), jnp.ones(spec.dim)))
    options: dict[str, Any] = {"base_dist": base, "flow_layers": spec.transforms}
    options["invert"] = _is_turned(spec)
    if spec.family == "planar":
        return flows.planar_flow(key, **options)
    if spec.family == "bnaf":
        return flows.block_neural_autoregressive_flow(
            key, nn_depth=len(spec.hidden_dims), nn_block_dim=spec.factor, **options
        )
    if spec.splines:
        options["transformer"] = RationalQuadraticSpline(knots=spec.bins - 1, interval=spec.bound)
    options |= {"nn_width": spec.hidden, "nn_depth": len(spec.hidden_dims)}
    make = flows.coupling_flow if spec.splits else flows.masked_autoregressive_flow
    return make(key, **options)


def _cells(spec: Spec, trained: Any, constant: Any) -> dict[str, Callable[[], object]]:
    """Creates one call for each operation; it waits for its result."""
    optimizer = optax.adam(0.0)
    state = {"trained": trained, "moments": optimizer.init(trained), "key": jr.key(1)}
    data = jr.normal(jr.key(2), (spec.batch, spec.dim))

    def whole(values: Any) -> Any:
        return paramax.unwrap(equinox.combine(values, constant))

    def negative_log_likelihood(values: Any, x: Any) -> Any:
        return -whole(values).log_prob(x).mean()

    def negative_elbo(values: Any, key: Any) -> Any:
        x, log_q = whole(values).sample_and_log_prob(key, (spec.batch,))
        return (log_q + 0.5 * (x**2).sum(-1)).mean()

    def total(values: Any, key: Any) -> Any:
        return whole(values).sample(key, (spec.batch,)).sum()

    def step(loss: Callable[[Any, Any], Any]) -> Callable[[Any], None]:
        @jax.jit
        def update(values: Any, moments: Any, given: Any) -> tuple[Any, Any]:
            gradient = jax.grad(loss)(values, given)
            change, moments = optimizer.update(gradient, moments, values)
            return optax.apply_updates(values, change), moments

        def run(given: Any) -> None:
            state["trained"], state["moments"] = update(state["trained"], state["moments"], given)
            jax.block_until_ready(state["trained"])

        return run

    def fresh() -> Any:
        state["key"], key = jr.split(state["key"])
        return key

    score = jax.jit(lambda values, x: whole(values).log_prob(x))
    sample = jax.jit(lambda values, key: whole(values).sample(key, (spec.batch,)))
    inverse_grad = jax.jit(jax.grad(total))
    train, vi = step(negative_log_likelihood), step(negative_elbo)
    cells: dict[str, Callable[[], object]] = {
        "log_prob": lambda: jax.block_until_ready(score(state["trained"], data)),
        "train": lambda: train(data),
        "sample": lambda: jax.block_until_ready(sample(state["trained"], fresh())),
        "vi": lambda: vi(fresh()),
        "inverse_grad": lambda: jax.block_until_ready(inverse_grad(state["trained"], fresh())),
    }
    return {name: cells[name] for name in spec.kind.operations}
