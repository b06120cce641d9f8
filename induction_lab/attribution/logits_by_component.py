"""Direct logit attribution: how much each part of a model speaks for the right next token.

A token's logit, minus the mean over the vocabulary, is split into what embedding, heads, MLPs and biases write into the
residual stream, the final norm's scale held at what it is, so that the parts add up. Not causal: what later layers make
of a part is counted as theirs. Source: Elhage et al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.attention.scopes import Scope
from induction_lab.behaviour.next_tokens import NO_ANSWER, check_answers, next_tokens, places
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.batches import batches
from induction_lab.internals.bridge_hooks import bridge_run
from induction_lab.internals.head_outputs import heads_along
from induction_lab.models.frozen_norms import final_norm, output_norm
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import provenance
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, parse_head
from induction_lab.results.saved import Saved
from induction_lab.results.statistics import over_prompts
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.results import HeadScores

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

_SHOWN = 12  # components in a notebook
_WHERE = {"copied": "where copying is right", "elsewhere": "over all answers, none of which is copied"}


@dataclass(frozen=True, repr=False)
class LogitAttributions(Saved):
    """What each component adds to the answer's logit, minus what it adds to the mean logit.

    Attributes:
        model: The model's name.
        labels: `embedding`, `positions` where learned ones are added, every head (`L1H3`) and MLP (`MLP1`), `bias`.
        values: In logits; NaN where a position has no answer. The sum over components is the model's own logit of the
            answer minus its mean over the vocabulary (before the cap, where the architecture caps its logits).
        prompts: What was read.
        shape: Layers and heads.
        provenance: What another lab needs to trust the numbers.
    """

    model: str
    labels: tuple[str, ...]
    values: Float[Tensor, "component prompt pos"]
    prompts: Prompts
    shape: tuple[int, int]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        """Model and shape."""
        n_components, n_prompts, n_pos = self.values.shape
        return f"LogitAttributions({self.model!r}, {n_components} components, {n_prompts} x {n_pos} tokens)"

    def _repr_html_(self) -> str:
        """The components that add most, for notebooks: where copying is right, if it is anywhere, else over all."""
        table = self.to_dataframe()
        where = "copied" if "copied" in set(table["where"]) else "elsewhere"
        rows: Any = table.loc[table["where"] == where].sort_values("value", ascending=False)
        facts = f"Logits that each adds to the right next token, minus the mean over the vocabulary; {_WHERE[where]}"
        more = f"{len(rows) - _SHOWN} more of {len(rows)} components" if len(rows) > _SHOWN else ""
        shown = rows[["component", "value", "standard_error"]].head(_SHOWN).itertuples(index=False)
        columns = ("component", "logits", "standard error")
        return html_card(f"Logits of {self.model} by component", facts, columns, shown, note=more)

    def heads(self, where: Bool[Tensor, "prompt pos"] | None = None) -> Float[Tensor, "layer head"]:
        """Logits that each head adds: the mean over each prompt's positions, then over prompts.

        Args:
            where: Positions to average over; by default where copying is right (`Recurrences.copyable`).

        Raises:
            ValueError: If there is no such position with an answer.
        """
        return self._summary(where)[0]

    def standard_errors(self, where: Bool[Tensor, "prompt pos"] | None = None) -> Float[Tensor, "layer head"]:
        """Of `heads`, over prompts; NaN where one prompt alone has such positions."""
        return self._summary(where)[1]

    def head_scores(self) -> HeadScores:
        """The heads as `HeadScores`, which can be ranked, saved, loaded and drawn (`plot_head_scores`)."""
        (values, errors), name = self._summary(None), "logit_attribution"
        return HeadScores(self.model, {name: values}, {name: errors}, {name: 0.0}, provenance=self.provenance)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a component, where copying is right (`where` is `copied`) and where it is not (`elsewhere`).

        Columns: model, component, kind (embedding, positions, head, mlp, bias), layer, head, where, value (logits),
        standard_error (over prompts).
        """
        known = [(self.model, label, *_who(label)) for label in self.labels]
        who = pd.DataFrame(known, columns=["model", "component", "kind", "layer", "head"])
        who = who.astype({"layer": "Int64", "head": "Int64"})  # nullable
        frames = []
        for where, mask in places(self.prompts, ~self.values[0].isnan()).items():
            mean, error = over_prompts(self.values, mask)
            frames.append(who.assign(where=where, value=mean.numpy(), standard_error=error.numpy()))
        return pd.concat(frames, ignore_index=True)

    def _summary(self, where: Bool[Tensor, "prompt pos"] | None) -> tuple[Tensor, Tensor]:
        mask = Recurrences(self.prompts).copyable if where is None else where.cpu()
        mask = mask & ~self.values[0].isnan()
        if not mask.any():
            what = "Nothing is copied in these prompts, no pair recurs" if where is None else "`where` picks no answer"
            raise ValueError(f"{what}: use repeated_tokens(model), or heads(where=…) for other positions.")
        rows = [row for row, label in enumerate(self.labels) if _who(label)[0] == "head"]
        mean, error = over_prompts(self.values[rows], mask)
        return mean.view(self.shape), error.view(self.shape)


@takes_names
def attribute_logits(
    model: HookedModel,
    prompts: PromptsLike,
    *,
    answers: Int[Tensor, "prompt pos"] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> LogitAttributions:
    """Split the logit of each right next token, minus the mean over the vocabulary, into the model's components.

    Heads whose sum is normalised or rescaled before it enters the stream (Gemma 2 and 3, OLMo-2, Granite) are followed
    through that, its scale held as well.

    >>> model = load_model()                                                       # doctest: +SKIP
    >>> attribute_logits(model, repeated_tokens(model)).heads()[1]                 # doctest: +SKIP
    tensor([3.4586, 4.4770, 4.0696, 5.7660])

    Args:
        model: Any model that TransformerLens can hook.
        prompts: `Prompts`, tokens `[prompt, pos]`, or text.
        answers: Token whose logit is split at each position; -1: none. By default the token that comes next.
        batch_size: Prompts at a time; by default as many as make 1,024 tokens.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If `answers` do not fit the prompts, or the parts do not add up to the residual stream: this
            architecture has others, or projects its stream before the unembedding.
    """
    prompts = as_prompts(model, prompts)
    if model.n_layers == 0:
        raise ValueError(f"{model.name} has no layers, so there is nothing to split.")
    if model.anatomy.projects_stream:
        raise ValueError(f"{model.name} projects its stream before the unembedding, so its parts have no logits.")
    answers = next_tokens(prompts) if answers is None else check_answers(model, prompts, answers)
    parts, labels = [], _labels(model)
    with progress_bar(len(prompts), "attributing logits", shown=progress) as tick:
        for rows in batches(model, prompts, batch_size):
            tokens, asked = prompts.tokens[rows], answers[rows].clamp(min=0)
            parts.append(_attribute(model, tokens.to(model.device), asked.to(model.device)).cpu().float())
            tick(len(tokens))
    values = torch.cat(parts, 1).masked_fill(answers == NO_ANSWER, torch.nan)
    if not parts[0][1].any():  # no learned positions
        labels, values = labels[:1] + labels[2:], torch.cat([values[:1], values[2:]])
    facts = provenance(model, prompts) | {"attention_path": "hooks"}
    return LogitAttributions(model.name, labels, values, prompts, (model.n_layers, model.n_heads), facts)


def _attribute(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], answers: Int[Tensor, "batch pos"]
) -> Float[Tensor, "component batch pos"]:
    """Components in the order of `_labels`."""
    cache, norm, wide, n_all = _run(model, tokens), final_norm(model), model.wide, n_real_tokens(model)
    stream = cache["resid_post", model.n_layers - 1]
    with torch.inference_mode():
        scale = norm.scale(stream.to(wide), model.final_norm(stream).to(wide))
        readers = (
            model.unembedding[answers].to(wide) - model.unembedding[:n_all].mean(0, dtype=wide)
        ) * model.logit_scale
        directions = norm.fold(readers) / scale[..., None]

        def read(part: Tensor) -> Tensor:
            return (part.to(wide) * directions).sum(-1)

        embedding, *mlps = (read(part) for part in torch.as_tensor(cache.decompose_resid(mode="mlp")))
        parts = [embedding, read(cache["resid_pre", 0]) - embedding]
        biases = torch.zeros_like(scale)
        for layer in range(model.n_layers):
            added = None if output_norm(model, layer) is None else cache["attn_out", layer]
            heads, bias = heads_along(model, layer, cache["z", layer], directions, added=added)
            parts += [*heads.movedim(-1, 0), *mlps[layer : layer + 1]]
            biases += bias
        values = torch.stack([*parts, biases])
        _check_sum(model, values, read(stream))
        b_U = model.hooked.b_U.to(wide) * model.logit_scale
        values[-1] += readers @ norm.bias + b_U[answers] - b_U[:n_all].mean()
    return values


def _run(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> ActivationCache:
    """What the components write, and as few logits as can be: none, or the last position's."""
    from transformer_lens import ActivationCache

    hooked, last = model.hooked, model.n_layers - 1
    short: dict[str, Any] = {"return_type": "hidden"} if model.bridge is None else {}
    kept = ["attn.hook_z"] + ["hook_mlp_out"] * (model.anatomy.has_mlps)
    kept += ["hook_attn_out"] * (output_norm(model, model.anatomy.attending[0]) is not None)
    names = ["hook_embed", "blocks.0.hook_resid_pre", f"blocks.{last}.hook_resid_post"]
    names += [f"blocks.{layer}.{name}" for layer in range(model.n_layers) for name in kept]
    with Scope() as scope, bridge_run(model):
        scope.before(hooked.unembed, lambda _, inputs: (inputs[0][:, -1:],))
        _, cache = hooked.run_with_cache(tokens, names_filter=names, **short)
    absent = [name for name in names if name not in cache]
    if absent:
        raise ValueError(f"{model.name} shows no {absent[0]}: its logits cannot be split into heads and MLPs.")
    return ActivationCache(dict(cache.items()), hooked)


def _who(label: str) -> tuple[str, int | None, int | None]:
    """A component's kind, layer and head."""
    if label.startswith("L"):
        layer, head = parse_head(label)
        return "head", layer, head
    return ("mlp", int(label[3:]), None) if label.startswith("MLP") else (label, None, None)


def _labels(model: HookedModel) -> tuple[str, ...]:
    labels = ["embedding", "positions"]
    for layer in range(model.n_layers):
        labels += [str(Head(layer, head)) for head in range(model.n_heads)]
        labels += [f"MLP{layer}"] * (model.anatomy.has_mlps)
    return (*labels, "bias")


def _check_sum(model: HookedModel, values: Float[Tensor, "component batch pos"], whole: Tensor) -> None:
    """Heads, MLPs, embedding and biases must make the whole stream, within the rounding of the model's numbers."""
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * values.abs().sum(0)
    if not ((values.sum(0) - whole).abs() <= tolerance).all():
        raise ValueError(
            f"Heads, MLPs, embedding and biases of {model.name} ({type(model.network).__name__}) do not add up to "
            "its residual stream: something else writes into it or rescales it, so its logits cannot be split."
        )
