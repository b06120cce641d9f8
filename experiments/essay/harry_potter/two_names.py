"""Texts about two namesakes (namesakes.toml), the log-odds of their names, and queries taken from another text.

Each scene is written in every combination of factors, +1 or -1 each, so that none goes with another:

- `role`: the name has its own role (the wizard Potter) or the other one (the cook Potter);
- `last`: the name is the last that was mentioned in full, or the one before;
- `often`: the name is mentioned once more than the other, or once less;
- `sentence`: the last sentence is on the work of the own role or of the other.

What the text says is `topic` = role x sentence: the last sentence is on the work of the one with this name. What a
model may know from training is `sentence` by itself: the wizards' sentence speaks for Potter whatever he is here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.passages import Passages, first_token, read_passages
from induction_lab import Head, HookedModel
from induction_lab.attention.exact import Attention, LayerAttention
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams

NAMESAKES = Path(__file__).with_name("namesakes.toml")
GROUPS = ("made_up", "famous")
FACTORS = ("topic", "last", "often", "sentence", "role")
PLAIN, SCRAMBLED, NEITHER = "the sentence", "its words scrambled", "a sentence on neither"


@dataclass(frozen=True)
class Texts:
    """Texts of some scenes, and by factor what holds in each of them."""

    passages: Passages
    answers: Int[Tensor, "prompt 2"]  # the first tokens of the name and of the other name
    scene: list[int]
    factors: dict[str, list[int]]

    def log_odds(self, model: HookedModel, hidden: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, " prompt"]:
        """Of the name against the other name after the first name, in nats."""
        with torch.inference_mode():
            logits = model.unembed(self.passages.at_end(hidden)).float().cpu()
        return logits.gather(1, self.answers) @ torch.tensor([1.0, -1.0])

    def contrast(self, values: Float[Tensor, " prompt"], factor: str = "topic") -> list[float]:
        """By scene, what `values` gain from a factor at -1 to the same at +1, the others averaged over."""
        scenes = sorted(set(self.scene))
        signs, of = torch.tensor(self.factors[factor]).float(), torch.tensor(self.scene)
        return [2.0 * float((signs * values)[of == scene].mean()) for scene in scenes]


def write_texts(
    model: HookedModel, data: Mapping[str, Any], group: str, kind: str, scenes: Sequence[int], *, every: bool, seed: int
) -> Texts:
    """The texts of some scenes.

    Args:
        model: With a tokenizer.
        data: What namesakes.toml holds.
        group: Of names.
        kind: Of the last sentence: `PLAIN`, `SCRAMBLED` (its words in random order) or `NEITHER`.
        scenes: By number.
        every: All combinations of factors, or the half in which `often` is role x last: main effects stay apart.
        seed: Of the order of scrambled words.
    """
    texts, answers, which, found = [], [], [], []
    for scene in scenes:
        for role, last, often, sentence in product((1, -1), repeat=4):
            if (not every and often != role * last) or (kind == NEITHER and sentence < 0):
                continue
            texts.append(_text(data, group, kind, scene, (role, last, often, sentence), seed))
            answers.append([first_token(model, name) for name in data["scene"][scene][group][1:]])
            which.append(scene)
            known = 0 if kind == NEITHER else sentence
            found.append({"topic": role * known, "last": last, "often": often, "sentence": known, "role": role})
    factors = {name: [each[name] for each in found] for name in FACTORS}
    return Texts(read_passages(model, texts), torch.tensor(answers), which, factors)


def _text(
    data: Mapping[str, Any], group: str, kind: str, scene: int, factors: tuple[int, int, int, int], seed: int
) -> str:
    entry, turn = data["scene"][scene], scene % len(data["introductions"])
    role, last, often, sentence = factors
    first, name, other = entry[group]
    roles = {name: entry["own"][0], other: entry["other"][0]}
    if role < 0:
        roles = {name: roles[other], other: roles[name]}
    marked = {name: f"{first} <name|{name}>", other: f"{first} <other|{other}>"}
    before, after = (other, name) if last > 0 else (name, other)
    introduced = data["introductions"][turn].format(
        role=roles[before], name=marked[before], other_role=roles[after], other_name=marked[after]
    )
    mentioned = data["mentions"][(turn + scene // 4) % 4].format(twice=f"{first} {name if often > 0 else other}")
    told = data["neither"][turn] if kind == NEITHER else entry["own" if sentence > 0 else "other"][1]
    told = scrambled(told, seed + scene) if kind == SCRAMBLED else told
    return f"{mentioned} {introduced} {told} {data['endings'][(turn + scene // 8) % 4].format(first=first)}"


def scrambled(sentence: str, seed: int) -> str:
    """The words of a sentence in random order, its full stop and capital at their places."""
    words = sentence.rstrip(".").replace(",", "").split()
    words[0] = words[0].lower()
    random.Random(seed).shuffle(words)
    told = " ".join(words)
    return f"{told[0].upper()}{told[1:]}."


def coefficients(log_odds: Sequence[float], factors: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Least squares of the log-odds on the factors that vary and a constant: twice each, what a factor changes."""
    varying = [name for name in FACTORS if len(set(factors[name])) > 1]
    design = np.column_stack([np.ones(len(log_odds)), *(np.asarray(factors[name], float) for name in varying)])
    found = np.linalg.lstsq(design, np.asarray(log_odds, float), rcond=None)[0]
    return {"constant": float(found[0])} | {
        name: 2.0 * float(value) for name, value in zip(varying, found[1:], strict=True)
    }


class Exchange:
    """Texts that differ in their last sentence alone, and at the end take something over from each other.

    With the whole stream at the end taken over after the last layer the log-odds are each other's, so that the topic's
    effect turns into its negative: that is a share of 1.
    """

    def __init__(self, model: HookedModel, texts: Texts) -> None:
        """Run them once; and for every layer make the queries at the end that the partner's stream would give here.

        The queries are made of the partner's stream, normalised, projected and rotated as at this text's position.
        """
        self.model, self.texts = model, texts
        self.streams: ResidualStreams = residual_streams(model, texts.passages.tokens)
        self.clean = texts.log_odds(model, self.streams.normalised)
        self.rows, self.last = torch.arange(len(texts.scene)), texts.passages.last
        self.partner = _partners(texts)
        self.queries = {
            layer: self._query(self.streams.attention_at(layer, self.swapped(layer), prompts=self.rows))
            for layer in self.streams.attention
        }

    def swapped(self, layer: int) -> Float[Tensor, "prompt pos d_model"]:
        """What enters a layer, at the end what does in the partner."""
        stream = self.streams.before[layer].clone()
        stream[self.rows, self.last] = self.streams.before[layer][self.partner, self.last[self.partner]]
        return stream

    def stream(self, layer: int) -> Float[Tensor, " prompt"]:
        """The log-odds with the partner's stream at the end from this layer on."""
        return self.texts.log_odds(self.model, self.streams.run(layer, stream=self.swapped(layer)))

    def query(self, heads: Sequence[Head]) -> Float[Tensor, " prompt"]:
        """The log-odds with these heads asking at the end what they ask in the partner."""
        return self._run(heads, self._asking)

    def output(self, heads: Sequence[Head]) -> Float[Tensor, " prompt"]:
        """The log-odds with these heads putting out at the end what they put out in the partner."""
        return self._run(heads, self._answering)

    def attention(self) -> Float[Tensor, "prompt layer head"]:
        """Each head's attention at the end to the name, less that to the other name."""
        marks = self.texts.passages.marks
        layers = []
        for _, seen in sorted(self.streams.attention.items()):
            to = [seen.probabilities(self.rows, self.last, marks[mark][:, 0]) for mark in ("name", "other")]
            layers.append((to[0] - to[1]).float().cpu())
        return torch.stack(layers, 1)

    def _run(self, heads: Sequence[Head], change: Any) -> Float[Tensor, " prompt"]:
        chosen: dict[int, list[int]] = {}
        for head in heads:
            chosen.setdefault(head.layer, []).append(head.head)

        def edit(attention: LayerAttention) -> LayerAttention:
            own = chosen.get(attention.layer)
            if not own:
                return attention
            z = attention.z.clone()
            z[self.rows[:, None], torch.tensor(own), self.last[:, None]] = change(attention, torch.tensor(own)).to(z)
            return replace(attention, z=z)

        return self.texts.log_odds(self.model, self.streams.run(min(chosen), edit))

    def _asking(self, attention: Attention, heads: Tensor) -> Float[Tensor, "prompt head d_head"]:
        q = attention.q[:, heads].clone()
        q[self.rows, :, self.last] = self.queries[attention.layer][:, heads]
        return attention.mix(heads=heads, q=q)[self.rows, :, self.last]

    def _answering(self, attention: Attention, heads: Tensor) -> Float[Tensor, "prompt head d_head"]:
        clean = self.streams.attention[attention.layer].z
        return clean[self.partner, :, self.last[self.partner]][:, heads]

    def _query(self, attention: Any) -> Float[Tensor, "prompt head d_key"]:
        return attention.q[self.rows, :, self.last]


def _partners(texts: Texts) -> Int[Tensor, " prompt"]:
    """For each text the number of that which differs in the last sentence alone."""
    names = ("role", "last", "often")
    keys = [(scene, *(texts.factors[name][i] for name in names)) for i, scene in enumerate(texts.scene)]
    where = {(*key, texts.factors["sentence"][i]): i for i, key in enumerate(keys)}
    return torch.tensor([where[(*key, -texts.factors["sentence"][i])] for i, key in enumerate(keys)])
