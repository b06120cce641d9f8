"""What heads put out instead of their own: nothing, a mean, another prompt's, or what an ideal pattern would bring.

    mean                  at each position its mean over other prompts: what the head says on any of them
    zero                  nothing; harsh, because later layers have learnt to expect something
    resample              what it puts out on another prompt
    pattern_preserving    nothing, while every other head attends as in a clean run, so that only what passes through
                          values is lost (Olsson et al. 2022)
    ideal_previous_token  what its values bring if it attends to the token before, and to nothing else
    ideal_induction       what its values bring if it attends evenly to what followed each earlier occurrence of the
                          current token, and to BOS where there is none

Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895, with Redwood's comment on idealised patterns there;
means and other prompts' values as in Wang et al. (2022), https://arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import AttentionReading, HeadOutputs, MaterialisedAttention
from induction_lab.attention.forced_patterns import show_forced
from induction_lab.data.occurrences import ideal_pattern
from induction_lab.data.prompts import Prompts
from induction_lab.internals.batches import chunks
from induction_lab.internals.editing import edit_attention, is_edited
from induction_lab.models.anatomy import goes_through_interface
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import Head

Method = Literal["mean", "zero", "resample", "pattern_preserving", "ideal_previous_token", "ideal_induction"]
METHODS: tuple[Method, ...] = get_args(Method)
_OF_PATTERNS = ("pattern_preserving", "ideal_previous_token", "ideal_induction")
Clean = dict[int, Any]  # by layer, what an unedited run showed: AttentionReading or HeadOutputs
Outputs = dict[Any, Tensor]  # by layer, [prompt, head, pos, d_head]


@dataclass(frozen=True)
class Substitute:
    """What heads put out instead, on the prompts it was made for.

    Attributes:
        outputs: By layer `[prompt or 1, head, pos, d_head]`; nothing at all where empty.
        pattern: Where the heads attend instead, if they keep their values.
        frozen: By layer, the attention that every head keeps, chosen or not.
    """

    outputs: Outputs = field(default_factory=dict)
    pattern: Float[Tensor, "prompt query key"] | None = None
    frozen: Clean = field(default_factory=dict)

    def edit(self, attention: Any, groups: Sequence[Sequence[Head]]) -> Any:
        """One layer's attention, rows being all prompts once for each group of heads, with the groups' heads edited."""
        chosen = [[head.head for head in group if head.layer == attention.layer] for group in groups]
        if not self.frozen and not any(chosen):
            return attention
        self._check_length(attention)
        z: list[Tensor] = []
        for index, (rows, heads) in enumerate(zip(attention.z.chunk(len(groups)), chosen, strict=True)):
            if self.frozen:
                rows = self._kept(attention.layer, attention.v.chunk(len(groups))[index])
            if heads:
                self._check(rows, attention.layer)
                rows = rows.clone()
                rows[:, heads] = self._instead(attention, heads, index, len(groups)).to(rows)
            z.append(rows)
        return self._shown(replace(attention, z=torch.cat(z)), chosen)

    def _kept(self, layer: int, v: Tensor) -> Tensor:
        clean = self.frozen[layer]
        if torch.is_grad_enabled():  # what was seen without gradients cannot be saved for the backward pass as it is
            mask = None if clean.mask is None else clean.mask.clone()
            clean = replace(clean, q=clean.q.clone(), k=clean.k.clone(), mask=mask)
        return clean.mix(v=v)

    def _instead(self, attention: Any, heads: list[int], group: int, n_groups: int) -> Tensor:
        if self.pattern is not None:
            v = attention.v.chunk(n_groups)[group]
            shared = v[:, torch.tensor(heads, device=v.device) // (attention.z.shape[1] // v.shape[1])]
            return self.pattern[:, None].to(v) @ shared
        outputs = self.outputs.get(attention.layer)
        return attention.z.new_zeros(()) if outputs is None else outputs[:, heads]

    def _shown(self, attention: Any, chosen: list[list[int]]) -> Any:
        """Let whoever reads the attention see the forced pattern."""
        if len(chosen) > 1 or isinstance(attention, HeadOutputs):
            return attention
        if self.frozen:
            clean = replace(self.frozen[attention.layer], v=attention.v, z=attention.z)
            if isinstance(attention, MaterialisedAttention):
                return MaterialisedAttention(attention.layer, clean.pattern(), attention.v, attention.z)
            return clean
        if self.pattern is None:
            return attention
        return show_forced(attention, dict.fromkeys(chosen[0], self.pattern))

    def _check_length(self, attention: Any) -> None:
        n_queries, v = attention.z.shape[2], attention.v
        if (self.outputs or self.frozen or self.pattern is not None) and v is not None and v.shape[2] != n_queries:
            raise ValueError(
                f"The model was run on {n_queries} tokens after {v.shape[2] - n_queries} that it keeps keys and values "
                "of: only zero can ablate so. Run whole prompts: generate(..., use_cache=False)."
            )

    def _check(self, rows: Tensor, layer: int) -> None:
        if self.pattern is not None:
            n_prompts, n_pos = self.pattern.shape[:2]
        elif layer in self.outputs:
            n_prompts, n_pos = self.outputs[layer].shape[0], self.outputs[layer].shape[2]
        else:
            return
        if rows.shape[2] != n_pos or n_prompts not in (1, rows.shape[0]):
            raise ValueError(
                f"The heads' replacements are for {n_prompts} prompts of {n_pos} tokens, the model was run on "
                f"{rows.shape[0]} of {rows.shape[2]}. Give a `reference` of that length (generation with a cache of "
                "keys and values cannot be ablated in this way)."
            )


def substitute(
    model: HookedModel,
    method: str,
    prompts: Prompts,
    look: Callable[[Prompts], Outputs],
    *,
    reference: Prompts | None = None,
    clean: Clean | None = None,
    seed: int = 0,
) -> Substitute:
    """Work out the substitutes on some prompts.

    Args:
        model: With nothing edited.
        method: One of `METHODS`.
        prompts: What the model will be run on.
        look: Runs the model on prompts and returns the outputs to be replaced, `[prompt, head, pos, d_head]` by layer.
        reference: For `mean` and `resample`, whose outputs to take; by default those of the other prompts. As many as
            `prompts` are paired with them by `resample`, one to one; of more or fewer it draws.
        clean: The attention of a run on `prompts`, if it is known already.
        seed: Of the choice of other prompts.

    Raises:
        ValueError: If the method is unknown or not to be had of this model, or there is no other prompt.
    """
    check_method(model, method)
    if method == "zero":
        return Substitute()
    if method in ("ideal_previous_token", "ideal_induction"):
        return Substitute(pattern=ideal_pattern(prompts.tokens, method).to(model.device))
    if method == "pattern_preserving":
        return Substitute(frozen=clean_run(model, prompts.tokens) if clean is None else clean)
    if reference is not None and method == "mean":
        return means(*totals(reference, look))
    if reference is not None:
        return Substitute(look(paired(prompts, reference, seed=seed)))
    if len(prompts) < 2:
        raise ValueError(
            f"`{method}` takes a head's outputs from other prompts, but only one was given: run several prompts at "
            "once, or give a `reference` such as repeated_tokens(model, seed=1)."
        )
    own = look(prompts)
    if method == "mean":
        return left_out_means(own, *summed(own, prompts), prompts)
    refuse_padding(prompts)
    shift = drawn_shift(len(prompts), seed=seed)
    return Substitute({key: x.roll(shift, 0) for key, x in own.items()})


def paired(prompts: Prompts, reference: Prompts, *, seed: int) -> Prompts:
    """For each prompt the one that `resample` takes its outputs from: one to one, or drawn.

    Raises:
        ValueError: If prompts are of several lengths, so that one would get another's padding.
    """
    refuse_padding(prompts, reference)
    if len(reference) == len(prompts):
        return reference
    drawn = torch.randint(len(reference), (len(prompts),), generator=torch.Generator().manual_seed(seed))
    return replace(reference, tokens=reference.tokens[drawn], lengths=None)


def refuse_padding(*several: Prompts) -> None:
    """Outputs of another prompt are no use where that has ended.

    Raises:
        ValueError: If prompts are of several lengths.
    """
    if any(prompts.lengths is not None for prompts in several):
        raise ValueError("`resample` wants prompts of one length, some here are padded: cut them, or use `mean`.")


def drawn_shift(n_prompts: int, *, seed: int) -> int:
    """How far off, in a circle, the prompt stands that `resample` takes each prompt's outputs from."""
    return 1 + int(torch.randint(n_prompts - 1, (1,), generator=torch.Generator().manual_seed(seed)))


def check_method(model: HookedModel, method: str) -> None:
    """Refuse what is unknown, or not to be had of this model.

    Raises:
        ValueError: As said.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    if method in _OF_PATTERNS and not goes_through_interface(model):
        raise ValueError(
            f"Patterns can be neither held nor changed in {model.name} ({type(model.network).__name__}), which attends "
            "out of sight of transformers' attention interface. mean, zero and resample ablation are to be had."
        )
    if method == "pattern_preserving" and is_edited(model):
        raise ValueError(
            f"Holding the patterns of {model.name} would undo the ablation that is in force: leave that context first, "
            "or enter the one that holds patterns before it."
        )


def clean_run(model: HookedModel, tokens: Int[Tensor, "prompt pos"], layers: Iterable[int] | None = None) -> Clean:
    """What every head attends to and puts out on these prompts; of the given layers only what it puts out."""
    found: Clean = {}
    wanted = set(range(model.n_layers)) if layers is None else set(layers)

    def keep(attention: AttentionReading | HeadOutputs) -> Any:
        if attention.layer in wanted:
            found[attention.layer] = attention if layers is None else HeadOutputs(attention.layer, attention.z)
        return attention

    with edit_attention(model, keep):
        model.hidden(tokens)
    return found


def totals(
    prompts: Prompts, look: Callable[[Prompts], Outputs]
) -> tuple[dict[Any, Float[Tensor, "_ pos _"]], Float[Tensor, "pos 1"]]:
    """The sums over all prompts, at each position, of what `look` sees on some of them; and how many reach it."""
    sums: dict[Any, Tensor] = {}
    count: Tensor = torch.zeros(())
    for some in chunks(*prompts.tokens.shape):
        part = prompts[some]
        more, reached = summed(look(part), part)
        sums = {key: sums[key] + x if sums else x for key, x in more.items()}
        count = reached + count.to(reached)
    return sums, count


def summed(outputs: Outputs, prompts: Prompts) -> tuple[dict[Any, Float[Tensor, "_ pos _"]], Float[Tensor, "pos 1"]]:
    """Sums over prompts, padding left out, and how many prompts reach each position."""
    first = next(iter(outputs.values()))
    real = prompts.real.to(first)
    return {key: (x * real[:, None, :, None]).sum(0) for key, x in outputs.items()}, real.sum(0)[:, None]


def means(total: dict[Any, Float[Tensor, "_ pos _"]], count: Float[Tensor, "pos 1"]) -> Substitute:
    """The mean over a reference.

    Raises:
        ValueError: If no prompt reaches some position.
    """
    _check_count(count, 1)
    return Substitute({key: (x / count)[None] for key, x in total.items()})


def left_out_means(
    own: Outputs, total: dict[Any, Float[Tensor, "_ pos _"]], count: Float[Tensor, "pos 1"], prompts: Prompts
) -> Substitute:
    """For each prompt the mean over all others, itself left out.

    Raises:
        ValueError: If one prompt alone reaches some position.
    """
    _check_count(count, 2)
    real = prompts.real.to(count)[:, None, :, None]
    return Substitute({key: (total[key] - x * real) / (count - real) for key, x in own.items()})


def _check_count(count: Float[Tensor, "pos 1"], least: int) -> None:
    short = (count[:, 0] < least).nonzero()
    if len(short):
        raise ValueError(
            f"From position {int(short[0])} on fewer than {least} prompts of the reference are long enough to take a "
            "mean over. Use prompts of one length, or more of them."
        )
