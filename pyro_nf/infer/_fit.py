"""What all fits of a flow to data do: prepare the data, initialise the flow, train it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
from torch import nn

from pyro_nf.infer._data import prepare
from pyro_nf.infer._inputs import Expected
from pyro_nf.infer._objective import MakeObjective
from pyro_nf.infer._optimizer import JointOptimizer, adam
from pyro_nf.infer._options import Options
from pyro_nf.infer._support import Density
from pyro_nf.infer._training import Plan, Trainer
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.result import FitResult


def fit(
    flow: Density,
    trained: nn.Module,
    data: Any,
    context: Any,
    make_objective: MakeObjective,
    options: Options,
    fingerprint: Mapping[str, Any] | None = None,
) -> FitResult:
    """Fits ``flow`` to data, in place.

    Args:
        flow: The flow.
        trained: The part of it whose parameters are trained.
        data: Data or a loader, as users pass them.
        context: Context, as users pass it.
        make_objective: Makes the objective, given the optimiser.
        options: The options.
        fingerprint: What else a checkpoint must agree on to be continued.
    """
    owner, state = options.owner, options.saved_state()
    if options.device is not None:
        flow.to(options.device)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    if not parameters:
        what = "flow" if trained is flow else type(trained).__name__
        raise ValueError(
            f"{owner} got a {what} without trainable parameters. "
            "Add a layer that has some, or set requires_grad_(True)."
        )
    # A store of its own: PyroParam weights would enter the global one, or be replaced from it.
    with pyro.get_param_store().scope():
        batches, held_out = prepare(
            Expected.by(flow, owner),
            data,
            context,
            validation=options.validation,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        plan = Plan(
            owner=owner,
            max_steps=options.max_steps,
            validate_every=options.validate_every,
            patience=options.patience,
            checkpoint=options.checkpoint,
            checkpoint_every=options.checkpoint_every,
            fingerprint={**batches.fingerprint, "seed": options.seed, **(fingerprint or {})},
        )
        torch_optimizer = (options.optimizer or adam(options.learning_rate))(parameters)
        optimizer = JointOptimizer(torch_optimizer, options.rate_factor(), options.clip_norm)
        objective = make_objective(optimizer)
        initial = batches.initial()
        flow.initialize(*initial)
        objective.check(initial)
        trainer = Trainer(flow, batches, held_out, optimizer, objective, plan)
        if state is not None:
            trainer.load_state_dict(state)
        # What validation can find has been found on the first rows; at every step it costs.
        with without_validation():
            return trainer.run(options.callback, options.progress)
