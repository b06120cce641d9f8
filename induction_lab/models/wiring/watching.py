"""Run a transformers model on a few single tokens and see what each of its modules reads and gives.

A token that stands alone attends to itself and nothing else, so a head's output is its value, and at position 0 nothing
is rotated: what queries, keys and values are made of can be followed from module to module by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from induction_lab.attention.scopes import Scope, alone, outside, said, uncompiled
from induction_lab.models.wiring.attending import attending

_WATCH = "induction_lab_watch"
PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")


class Passed(NamedTuple):
    """What a module read and gave, one row a token; everything behind the first axis side by side."""

    read: Tensor
    gave: Tensor


class AttentionCall(NamedTuple):
    """What a module attends with, `[token, head, d_head]` each: given to the attention interface, or multiplied."""

    q: Tensor
    k: Tensor
    v: Tensor


class Watched(NamedTuple):
    """One run.

    Attributes:
        passed: Of every module that ran, in the order in which they finished; of one that ran several times, each.
        calls: Of every module that attends.
        end: What the whole gave, one row a token.
    """

    passed: dict[nn.Module, list[Passed]]
    calls: dict[nn.Module, list[AttentionCall]]
    end: Tensor


def watch(network: nn.Module, run: Callable[[], Tensor], configs: list[Any]) -> Watched:
    """Run and watch.

    Modules that do not go through the attention interface are seen by the first product of a query with a key and of a
    probability with a value in them: `matmul` and its kin, or torch's own attention.

    Args:
        network: Whose modules are watched.
        run: Runs it on a batch of single tokens.
        configs: Configurations in which its modules look up how to attend; none where they attend by themselves.
    """
    passed: dict[nn.Module, list[Passed]] = {}
    calls: dict[nn.Module, list[AttentionCall]] = {}
    products = _Products(calls)

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        products.running.pop()
        first = kwargs.get("hidden_states")
        read, gave = _rows((first, *args, *kwargs.values())), _rows((output,))
        if read is not None and gave is not None and len(read) == len(gave):
            passed.setdefault(module, []).append(Passed(read, gave))

    held = Scope({_WATCH: calls})
    with outside(), held as scope, torch.inference_mode(), evaluating(network), _attending(configs):
        for module in network.modules():
            scope.before(module, lambda module, _: products.running.append(module))
            scope.after(module, keep, with_kwargs=True)
        if not configs:
            scope.enter_context(products)
        end = run()
    return Watched(
        passed, {m: [_by_head(call, len(end)) for call in several] for m, several in calls.items()}, end.flatten(1)
    )


@contextmanager
def attention_calls(network: nn.Module, configs: list[Any]) -> Iterator[dict[nn.Module, list[AttentionCall]]]:
    """What modules attend with for the last token of each prompt, as they run inside, every token attending to itself.

    Args:
        network: Which runs inside, and goes through the attention interface.
        configs: Configurations in which its modules look up how to attend.
    """
    calls: dict[nn.Module, list[AttentionCall]] = {}
    with Scope({_WATCH: calls}), torch.inference_mode(), evaluating(network), _attending(configs):
        yield calls


class _Products(TorchFunctionMode):
    """Sees what modules that attend by themselves multiply: a query with a key, and a probability with a value."""

    def __init__(self, calls: dict[nn.Module, list[AttentionCall]]) -> None:
        super().__init__()
        self.calls, self.running = calls, list[nn.Module]()
        self._asked: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor) and x.ndim >= 3]
        if self.running and getattr(func, "__name__", "") in PRODUCTS:
            if len(tensors) >= 3 and func is nn.functional.scaled_dot_product_attention:
                self._keep(*tensors[:3])
            elif len(tensors) >= 2:
                left, right = tensors[-2:]
                if left.shape[-2] == right.shape[-1] == 1 < left.shape[-1]:
                    self._asked[self.running[-1]] = left, right.mT
                elif left.shape[-2:] == (1, 1) and self.running[-1] in self._asked:
                    self._keep(*self._asked[self.running[-1]], right)
        return func(*args, **(kwargs or {}))

    def _keep(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        call = AttentionCall(q.detach().clone(), k.detach().clone(), v.detach().clone())
        self.calls.setdefault(self.running[-1], []).append(call)


def _by_head(call: AttentionCall, n_tokens: int) -> AttentionCall:
    """Heads stand behind tokens, or beside them in one axis (BLOOM)."""
    q, k, v = (x.reshape(n_tokens, -1, x.shape[-1]) for x in call)
    return AttentionCall(q, k, v)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """One run: alone with the network, dropout off, compiled parts uncompiled; all as it was afterwards.

    Raises:
        ValueError: Under autocast, which would round what is measured.
    """
    device = next((weight.device.type for weight in network.parameters()), "cpu")
    if torch.is_autocast_enabled(device):
        raise ValueError(
            f"Autocast is on, which rounds what is measured to {str(torch.get_autocast_dtype(device))[6:]}: measure "
            f'outside of it, or in `with torch.autocast("{device}", enabled=False):`.'
        )
    with alone(network), uncompiled():
        training = [module for module in network.modules() if module.training and not hasattr(module, "_orig_mod")]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def _attending(configs: list[Any]) -> Iterator[None]:
    from transformers.masking_utils import eager_mask

    with attending(configs, _WATCH, _attend_to_itself, eager_mask):
        yield


def _attend_to_itself(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    """What a token alone attends to: each query head's value."""
    for calls in said(_WATCH):
        q, k, v = (x[:, :, -1].detach().clone() for x in (query, key, value))
        calls.setdefault(module, []).append(AttentionCall(q, k, v))
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous(), None


def _rows(values: tuple[Any, ...]) -> Tensor | None:
    """The first tensor of numbers among these, or in a tuple among them; a copy, for some are changed in place."""
    for value in values:
        value = value[0] if isinstance(value, tuple | list) and value else value
        value = getattr(value, "last_hidden_state", value)
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value.detach().clone().flatten(1)
    return None
