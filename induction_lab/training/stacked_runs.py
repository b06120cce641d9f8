"""Train runs that differ in their seed alone as one: their parameters stacked, each step one step of all.

What a run leaves on disk is the same as when it is trained by itself, and so are the numbers but for the order of sums.
Worth it on a GPU, where starting a kernel costs more than the work of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from induction_lab.runtime.machine import using_threads
from induction_lab.training.one_run import Keeper
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import begin, locked
from induction_lab.training.trainer import BETAS, Trainer, Update, narrow


def train_stacked(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    device: str | torch.device,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train runs together, each into `folder/name`; all go on from where they were cut off, at the same step.

    Raises:
        ValueError: If they differ in more than their seed, are clamped or compiled, or stand at different steps.
    """
    folder = Path(folder)
    if len({replace(recipe, seed=0).fingerprint for recipe in recipes.values()}) != 1:
        raise ValueError("Stacked runs differ in their seed alone; train the others by themselves.")
    if any(recipe.clamps for recipe in recipes.values()):
        raise ValueError("Clamped runs cannot be stacked; train them by themselves: train_run.")
    plan = next(iter(recipes.values())).training
    if plan.compile:
        raise ValueError("Stacked runs are not compiled: leave out `compile`, or train them by themselves: train_run.")
    with ExitStack() as stack:
        stack.enter_context(using_threads(plan.threads))
        for name in recipes:
            stack.enter_context(locked(folder / name))
        runs = [begin(recipe, folder / name) for name, recipe in recipes.items()]
        trainers = []
        for run in runs:
            network = run.recipe.network().to(device)
            trainers.append(Trainer(network, run.stream(), plan, seed=run.recipe.seed))
        keepers = [Keeper(run, trainer.state) for run, trainer in zip(runs, trainers, strict=True)]
        for keeper, trainer in zip(keepers, trainers, strict=True):
            keeper.resume(trainer)
        if len({trainer.step for trainer in trainers}) > 1:
            raise ValueError(
                "Stacked runs go on together, but these stand at different steps: "
                + ", ".join(f"{run.name} at {trainer.step}" for run, trainer in zip(runs, trainers, strict=True))
                + ". Delete them, or finish each by itself: train_run."
            )
        stacked = StackedTrainer(trainers)
        for keeper in keepers:
            keeper.keep(stacked.step)
        while stacked.step < plan.steps:
            updates = stacked.advance()
            wanted = stacked.step in keepers[0].wanted
            for keeper, update in zip(keepers, updates, strict=True):
                keeper.note(stacked.step, update)
            if wanted:
                stacked.unstack()
                for keeper in keepers:
                    keeper.keep(stacked.step)
            if on_step is not None:
                on_step(stacked.step)


class StackedTrainer:
    """Several trainers of one plan, advanced together.

    Args:
        trainers: At the same step. Their networks and optimizers are brought up to date by `unstack`.
    """

    def __init__(self, trainers: list[Trainer]) -> None:
        """Stack their parameters and moments."""
        self.trainers, self.plan = trainers, trainers[0].plan
        self.step = trainers[0].step
        networks = [trainer.network for trainer in trainers]
        self.base = networks[0]
        stacked, _ = stack_module_state(networks)  # type: ignore[arg-type]
        self.parameters = {name: value.detach().clone().requires_grad_() for name, value in stacked.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.plan.peak_rate, betas=BETAS, weight_decay=self.plan.weight_decay,
            fused=True,
        )  # fmt: skip
        if self.step:
            self._stack_moments()
        self.gradient = vmap(grad_and_value(self._loss), randomness="error")

    def advance(self) -> list[Update]:
        """One update of each network."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        total = torch.zeros(len(self.trainers), dtype=torch.float32, device=self.trainers[0].device)
        summed: dict[str, Tensor] = {}
        for _ in range(self.plan.accumulate):
            tokens = torch.stack([trainer.draw() for trainer in self.trainers])
            gradients, losses = self.gradient({name: p.detach() for name, p in self.parameters.items()}, tokens)
            total += losses.detach() / self.plan.accumulate
            for name, gradient in gradients.items():
                share = gradient / self.plan.accumulate
                summed[name] = summed[name] + share if name in summed else share
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in summed.values()]).norm(dim=0)
        scale = (self.plan.clip / (norms + 1e-6)).clamp(max=1.0)
        for name, parameter in self.parameters.items():
            gradient = summed[name]
            share = scale.view(-1, *[1] * (gradient.dim() - 1))
            parameter.grad = (gradient * share).contiguous()  # the fused optimizer reads it in the parameter's order
        self.optimizer.step()
        self.step += 1
        return [Update(loss, norm) for loss, norm in zip(total, norms, strict=True)]

    def unstack(self) -> None:
        """Give each trainer its weights, moments and step."""
        for i, trainer in enumerate(self.trainers):
            trainer.step = self.step
            for name, parameter in trainer.network.named_parameters():
                parameter.data.copy_(self.parameters[name][i])
                moments = self.optimizer.state[self.parameters[name]]
                trainer.optimizer.state[parameter] = {
                    "step": moments["step"].clone(),
                    **{key: moments[key][i].clone() for key in ("exp_avg", "exp_avg_sq")},
                }

    def _stack_moments(self) -> None:
        for name, stacked in self.parameters.items():
            each = [
                trainer.optimizer.state[dict(trainer.network.named_parameters())[name]] for trainer in self.trainers
            ]
            self.optimizer.state[stacked] = {
                "step": each[0]["step"].clone(),
                **{key: torch.stack([state[key] for state in each]) for key in ("exp_avg", "exp_avg_sq")},
            }

    def _loss(self, parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        with narrow(tokens.device, self.plan.precision):
            logits = functional_call(self.base, parameters, (tokens,))[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
