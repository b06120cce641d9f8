"""Train an `AttentionOnlyTransformer`, or a network like it, on a stream of tokens, one step at a time.

AdamW, warm-up, flat, then linear decay; on one machine and one number of threads the same seed gives the same weights,
bit for bit, whether or not the training was cut off in between. What a run leaves on disk: `training.runs`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from induction_lab.data.training_streams import TokenStream
from induction_lab.runtime.machine import using_threads
from induction_lab.runtime.progress import progress_bar
from induction_lab.training.loss import training_loss

Precision = Literal["float32", "bfloat16"]
LOWEST_RATE = 0.02  # where the rate ends, as a part of its peak
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class TrainingPlan:
    """How long to train, how fast, and how much at a time.

    Attributes:
        steps: Updates of the weights.
        batch: Prompts an update sees, `accumulate` times.
        accumulate: Batches whose gradients are added before an update, where memory is short.
        peak_rate: Learning rate between warm-up and decay.
        warm_up: Steps over which the rate rises.
        decay: The last share of the steps, over which the rate falls.
        weight_decay: Of AdamW.
        clip: Longest gradient, as a norm.
        precision: `bfloat16` multiplies in it (weights and sums stay float32); worth it on GPUs.
        compile: Let `torch.compile` fuse the network. Needs a C++ compiler on a CPU and takes seconds to start.
        threads: Of the processor. Small matrices gain nothing from a second one; sums keep their order only for the
            same number.
        every: Steps between checkpoints, after 0, 1, 2, 4, … below it.
        initial_scale: Of the heads' initial weights; see `AttentionOnlyTransformer`.
    """

    steps: int = 800
    batch: int = 48
    accumulate: int = 1
    peak_rate: float = 3e-3
    warm_up: int = 50
    decay: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: Precision = "float32"
    compile: bool = False
    threads: int = 1
    every: int = 50
    initial_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out."""
        for name in ("steps", "batch", "accumulate", "threads", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("peak_rate", "clip", "decay", "initial_scale"):
            if not getattr(self, name) > 0:  # nor nan
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        for name in ("warm_up", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if self.peak_rate == float("inf"):
            raise ValueError(f"`peak_rate` must be finite, got {self.peak_rate}.")
        if self.decay > 1:
            raise ValueError(f"`decay` is a share of the steps, at most 1, got {self.decay}.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"`precision` must be one of {get_args(Precision)}, got {self.precision!r}.")

    def rate(self, step: int) -> float:
        """Learning rate of the update after `step` of them."""
        rise = (step + 1) / self.warm_up if self.warm_up else 1.0
        return self.peak_rate * min(1.0, rise, max(LOWEST_RATE, (self.steps - step) / (self.decay * self.steps)))

    @property
    def checkpoints(self) -> list[int]:
        """Steps to keep the weights of, which are 0, powers of two below `every`, its multiples and the last."""
        early = {0} | {2**power for power in range(self.steps.bit_length()) if 2**power < self.every}
        return sorted(step for step in early | {*range(0, self.steps, self.every)} | {self.steps} if step <= self.steps)


class Update(NamedTuple):
    """Loss and gradient norm of one update, still on the device."""

    loss: Tensor
    gradient_norm: Tensor


class Trainer:
    """A network in training: its weights, its optimizer and its random state.

    Args:
        network: Trained in place, on the device it is on. An `AttentionOnlyTransformer`, or a module that has its
            `cfg.n_ctx`, `cfg.d_vocab`, `W_E`, `W_U` and `trusts_tokens` and takes `return_type="hidden"`.
        stream: Where its tokens come from.
        plan: How to train.
        seed: Of the tokens.

    Raises:
        ValueError: If the stream has more tokens than the network.
    """

    def __init__(self, network: nn.Module, stream: TokenStream, plan: TrainingPlan, *, seed: int = 0) -> None:
        """Start at step 0."""
        self.network: Any = network
        if stream.d_vocab > self.network.cfg.d_vocab:
            raise ValueError(f"The stream has {stream.d_vocab} tokens, the network only {self.network.cfg.d_vocab}.")
        self.stream, self.plan = stream, plan
        self.network.trusts_tokens = True
        self.step = 0
        self.device = self.network.W_E.device
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=plan.peak_rate, betas=BETAS, weight_decay=plan.weight_decay, fused=True
        )
        self._run: Callable[..., Any] = torch.compile(network) if plan.compile else network

    def advance(self) -> Update:
        """One update of the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for _ in range(self.plan.accumulate):
            loss = self._loss(self.draw()) / self.plan.accumulate
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.plan.clip)
        self.optimizer.step()
        self.step += 1
        return Update(total, norm.detach())

    def draw(self) -> Tensor:
        """The next batch."""
        tokens = self.stream.draw(self.generator, n_prompts=self.plan.batch, n_ctx=self.network.cfg.n_ctx)
        return tokens.to(self.device, non_blocking=True)

    def _loss(self, tokens: Tensor) -> Tensor:
        with narrow(self.device, self.plan.precision):
            hidden = self._run(tokens, return_type="hidden")[:, :-1]  # kernels are fastest at lengths such as 64
            hidden, W_U = hidden.flatten(0, 1), self.network.W_U
            if (bias := getattr(getattr(self.network, "unembed", None), "b_U", None)) is not None:
                hidden = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)  # it reads a dimension that is always 1
                W_U = torch.cat([W_U, bias[None]])
            return training_loss(hidden, W_U, tokens[:, 1:].flatten())

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on from here with the same bits."""
        kept = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                kept[f"optimizer.{key}.{name}"] = value
        return {**kept, "generator": self.generator.get_state(), "step": torch.tensor(self.step)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        parts = {name.removeprefix("network."): x for name, x in state.items() if name.startswith("network.")}
        self.network.load_state_dict(parts)
        for name, parameter in self.network.named_parameters():
            moments = {key: state[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                       if f"optimizer.{key}.{name}" in state}  # fmt: skip
            if moments:
                self.optimizer.state[parameter] = {key: value.to(self.device) for key, value in moments.items()}
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])


def train(
    network: nn.Module,
    stream: TokenStream,
    plan: TrainingPlan,
    *,
    seed: int = 0,
    look: Callable[[Any], dict[str, int | float]] | None = None,
    progress: bool = False,
) -> list[dict[str, int | float]]:
    """Train in place and keep nothing on disk; `train_run` does that.

    Args:
        network: To be trained; see `Trainer`.
        stream: Where its tokens come from.
        plan: How to train.
        seed: Of the tokens.
        look: What else to record about the network every `plan.every` steps.
        progress: A progress bar on the terminal.

    Returns:
        A record for every `plan.every` steps: `step`, `train_loss` in nats, and what `look` saw.
    """
    trainer = Trainer(network, stream, plan, seed=seed)
    history = []
    try:
        with progress_bar(plan.steps, "training", shown=progress) as tick, using_threads(plan.threads):
            for step in range(1, plan.steps + 1):
                update = trainer.advance()
                if step % plan.every == 0:
                    seen = look(network) if look is not None else {}
                    history.append({"step": step, "train_loss": round(update.loss.item(), 4), **seen})
                tick(1)
    finally:
        trainer.network.trusts_tokens = False
    return history


def narrow(device: torch.device, precision: Precision) -> Any:
    """The context in which products are taken in `precision`."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
