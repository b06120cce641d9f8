"""What the live page asks of a model, and is answered: each answer is what a public function gives, as JSON values.

predict     the likeliest next tokens everywhere, with and without the changed heads
map         a number for every head: whether it copies here, where it looks, what it adds to a token
head        one head: its pattern, what it could write from each token, and what it writes here
why_weight  of an attention weight: who wrote what makes it, in the query and in the key
why_token   of a prediction: which components carry it
costs       how much more the text surprises without each of some groups of heads
kinds       induction, previous-token and duplicate-token heads, by their scores on random repeated tokens
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attribution.logits_by_component import LogitAttributions, attribute_logits
from induction_lab.attribution.shares import score_shares
from induction_lab.behaviour.next_tokens import NO_ANSWER
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.head_outputs import read_by_projection
from induction_lab.internals.reading import attention_layers, read_attention
from induction_lab.interventions.each_head import swept_values
from induction_lab.interventions.outputs import REFERENCE, Outputs, mean_outputs, random_reference
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.models.frozen_norms import final_norm, unembedding_readers
from induction_lab.models.head_weights import output_weight
from induction_lab.models.hooked_model import HookedModel
from induction_lab.pages.encoding import lower_triangle, pack
from induction_lab.pages.live.scene import METHODS, MOST_TOKENS, Scene
from induction_lab.pages.live.values import can, groups_of, head_of, largest_parts, numbers_of, place_of, token_of
from induction_lab.results.heads import LOOKS, Head, parse_head
from induction_lab.results.token_labels import token_labels
from induction_lab.scores.scoring import score_heads

LIKELIEST = 6  # next tokens that are shown
KEPT = 32  # answers that are remembered
KINDS = ("prefix_matching", "previous_token", "duplicate_token")
MODES = ("copying", "looks_at", "adds")


class LiveModel:
    """A model that answers; what was found of the last few scenes is kept.

    Args:
        model: Any supported model.
        load: What `load_model` is given to have it, for the lines of Python that the page shows.
    """

    def __init__(self, model: HookedModel, *, load: str | None = None) -> None:
        """Nothing is run yet."""
        self.model, self.load = model, load
        self._means: Outputs | None = None
        self._last: tuple[Scene, Tensor] | None = None
        self._seen: tuple[Scene, Any] | None = None  # the last scene alone: its patterns are large
        self._swept: tuple[str, PreparedPrompts] | None = None  # the last text that heads were left out of
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.asked: dict[str, Callable[[Scene, Mapping[str, Any]], dict[str, Any]]] = {
            "predict": self.predict, "map": self.map, "head": self.head,
            "why_weight": self.why_weight, "why_token": self.why_token, "costs": self.costs, "kinds": self.kinds,
        }  # fmt: skip

    def answer(self, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One answer.

        Raises:
            ValueError: If there is no such question, or it cannot be answered of this model or text.
        """
        if what not in self.asked:
            raise ValueError(f"A page asks for {', '.join(self.asked)}, got {what!r}.")
        return self.asked[what](Scene.read(given, self.model), given)

    def facts(self) -> dict[str, Any]:
        """What the page must know of the model before anything is asked."""
        model = self.model
        return {
            "name": model.name,
            "load": self.load,
            "n_layers": model.n_layers,
            "n_heads": model.n_heads,
            "layers": attention_layers(model),
            "reads_text": model.tokenizer is not None,
            "d_vocab": model.d_vocab,
            "bos": model.bos_token_id,
            "most_tokens": min(MOST_TOKENS, model.n_ctx or MOST_TOKENS),
            "methods": [method for method in METHODS if can(model, method)],
            "reference": REFERENCE,
            "looks": LOOKS,
        }

    def predict(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """Tokens; at each the likeliest next ones and how likely the one that comes is, in nats; both if heads change.

        Beside the model as it is stands the model as it is changed, where it is; `p_of_whole` is how likely that finds
        the likeliest tokens of the whole model, `whole_p` the other way round.
        """
        prompt = scene.prompt(self.model)
        tokens = {"tokens": self.model.token_labels(prompt), "ids": prompt.tokens[0].tolist()}

        def run() -> dict[str, Any]:
            log_p = self._log_p(scene.untouched, prompt)
            whole = self._predicted(log_p, prompt)
            if not scene.changes:
                return {"whole": whole}
            other = self._log_p(scene, prompt)
            changed = self._predicted(other, prompt)
            changed["p_of_whole"] = numbers_of(other.gather(1, torch.tensor(whole["ids"])).exp())
            changed["whole_p"] = numbers_of(log_p.gather(1, torch.tensor(changed["ids"])).exp())
            return {"whole": whole, "changed": changed}

        return tokens | self._remember(("predicted", scene), run)

    def map(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """A number for every head, `[layer, head]`, of the model as the scene has it.

        `copying`: attention to what followed earlier occurrences of the token at `position`; without one, the mean over
        all tokens that occurred before. `looks_at`: attention to the token at `position`, the mean over later ones, or
        from `query` alone. `adds`: what the head adds to the logit of `token` after `position`.
        """
        mode = given.get("mode")
        if mode not in MODES:
            raise ValueError(f"Heads are coloured by {', '.join(MODES)}, got {mode!r}.")
        prompt, n = scene.prompt(self.model), self.model.n_layers
        n_pos = prompt.tokens.shape[1]
        position = given.get("position")
        if mode == "adds":
            found = self._attributed(scene, prompt, place_of(position, n_pos), token_of(given.get("token"), self.model))
            values = torch.full((n, self.model.n_heads), torch.nan)
            for label, value in zip(found.labels, found.values[:, 0, place_of(position, n_pos)].tolist(), strict=True):
                if label.startswith("L"):
                    head = parse_head(label)
                    values[head.layer, head.head] = value
        elif mode == "looks_at":
            key = place_of(position, n_pos)
            query = None if given.get("query") is None else place_of(given["query"], n_pos, least=key)
            rows = self._patterns(scene, prompt)[0][:, :, :, key]
            values = rows[:, :, key + 1 :].mean(-1) if query is None else rows[:, :, query]
        else:
            values = self._copying(scene, prompt, None if position is None else place_of(position, n_pos))
        return {"values": numbers_of(values)}

    def head(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """One head: its pattern, `|v_s W_O|` of each token, and the tokens that it speaks for and against."""
        head, prompt = head_of(given.get("head"), self.model), scene.prompt(self.model)
        patterns, written, z, scale = self._patterns(scene, prompt)
        at = place_of(given.get("position"), prompt.tokens.shape[1])
        return {
            "pattern": pack(lower_triangle(patterns[head.layer, head.head].numpy()), bits=16, low=0.0, high=1.0),
            "written": numbers_of(written[head.layer, head.head]),
            "writes": self._writes(head, z[head.layer][head.head, at], scale[at], prompt.tokens[0, : at + 1].tolist()),
        }

    def why_weight(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """Of how far one score stands above the query's other keys: who wrote what, in the key and in the query."""
        head, prompt = head_of(given.get("head"), self.model), scene.prompt(self.model)
        n_pos = prompt.tokens.shape[1]
        query, key = place_of(given.get("query"), n_pos), place_of(given.get("key"), n_pos)

        def split() -> dict[str, Any]:
            found = {}
            with self._applied(scene, n_pos):
                for component in ("k", "q"):
                    parts = score_shares(self.model, prompt, head, component, pairs=[(query, key)])
                    named = zip(parts["sender"].tolist(), parts["score"].tolist(), strict=True)
                    found[component] = largest_parts(dict(named))
            return found

        return self._remember(("why_weight", scene, head, query, key), split)

    def why_token(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """What each component adds to the logit of `token` after `position`, minus what it adds to the mean logit."""
        prompt = scene.prompt(self.model)
        at = place_of(given.get("position"), prompt.tokens.shape[1])
        found = self._attributed(scene, prompt, at, token_of(given.get("token"), self.model))
        return largest_parts(dict(zip(found.labels, found.values[:, 0, at].tolist(), strict=True)))

    def costs(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """How much the text's mean loss changes, nats a token, without each group of heads, replaced by their means.

        As `ablation_sweep` says, of the model in which nothing else is changed, whatever the scene changes.
        """
        groups, prompt = groups_of(given.get("groups"), self.model), scene.prompt(self.model)
        if prompt.tokens.shape[1] < 2:
            raise ValueError(f"Prompts need at least one token after BOS, got shape {tuple(prompt.tokens.shape)}.")
        if self._swept is None or self._swept[0] != scene.text:
            self._swept = None  # its streams are let go before there are others
            self._swept = (scene.text, PreparedPrompts(self.model, prompt, "mean", "loss"))
        clean, lost = swept_values(self._swept[1], groups, lambda n, note="": None)
        return {"values": numbers_of(torch.cat(list(lost.values())).cpu() - clean.cpu())}

    def kinds(self, scene: Scene, given: Mapping[str, Any]) -> dict[str, Any]:
        """The heads that score above `LOOKS` by each of `KINDS`, highest first; the text does not matter."""

        def look() -> dict[str, Any]:
            scores = score_heads(self.model, scores=list(KINDS), loss=False)
            return {name: [str(head) for head, value in scores.top(name, 64) if value >= LOOKS] for name in KINDS} | {
                "definitions": {name: scores.about(name).definition for name in KINDS}
            }

        return self._remember(("kinds",), look)

    def prepare(self) -> None:
        """Find now what takes long and will be asked for: the heads' means and their kinds."""
        self.kinds(Scene(""), {})
        self.means(min(64, self.model.n_ctx or 64))

    def _log_p(self, scene: Scene, prompt: Prompts) -> Float[Tensor, "pos d_vocab"]:
        """Of the untouched model those of the last text are kept."""
        if self._last is not None and self._last[0] == scene:
            return self._last[1]
        with self._applied(scene, prompt.tokens.shape[1]):
            log_p = self.model.logits(prompt.tokens)[0].float().log_softmax(-1).cpu()
        if not scene.changes:
            self._last = (scene, log_p)
        return log_p

    def _predicted(self, log_p: Float[Tensor, "pos d_vocab"], prompt: Prompts) -> dict[str, Any]:
        best = log_p.topk(min(LIKELIEST, log_p.shape[1]))
        ids, before = best.indices.tolist(), prompt.tokens[0].tolist()
        return {
            "likeliest": [self._texts(row, before[: at + 1]) for at, row in enumerate(ids)],
            "ids": ids,
            "p": numbers_of(best.values.exp()),
            "nats": numbers_of(log_p[:-1].gather(1, prompt.tokens[0, 1:, None])[:, 0]),
        }

    def _texts(self, ids: list[int], behind: list[int]) -> list[str]:
        """Each token as it reads where it comes next."""
        return [token_labels(self.model.tokenizer, [token], behind=behind[-3:])[0] for token in ids]

    def _applied(self, scene: Scene, n_pos: int) -> Any:
        means = self.means(n_pos) if any(change.method == "mean" for change in scene.changes) else None
        return scene.applied(self.model, means)

    def means(self, n_pos: int) -> Outputs:
        """Of every head, over random tokens; those of longer prompts begin with those of shorter ones."""
        known = self._means
        if known is None or next(iter(known.heads.values())).shape[2] < n_pos:
            most = min(MOST_TOKENS, self.model.n_ctx or MOST_TOKENS)
            length = min(most, max(n_pos, 2 if known is None else 2 * n_pos))
            like = Prompts(torch.full((1, length), self.model.bos_token_id))
            reference = random_reference(self.model, like)
            self._means = known = mean_outputs(self.model, reference)
        return known.map(lambda z: z[:, :, :n_pos])

    def _patterns(
        self, scene: Scene, prompt: Prompts
    ) -> tuple[Float[Tensor, "layer head query key"], Float[Tensor, "layer head key"], dict[int, Tensor], Tensor]:
        """Of all heads: patterns, what each could write from each token, what they put out; the final norm's scale."""

        def look() -> Any:
            model, n_pos = self.model, prompt.tokens.shape[1]
            patterns = torch.full((model.n_layers, model.n_heads, n_pos, n_pos), torch.nan)
            written, z = torch.full((model.n_layers, model.n_heads, n_pos), torch.nan), {}

            def read(attention: AttentionReading) -> None:
                layer = attention.layer
                patterns[layer] = attention.pattern()[0].float().cpu()
                z[layer] = attention.z[0].cpu()
                v = attention.v[0].float().repeat_interleave(model.n_heads // attention.v.shape[1], 0)
                W_O = output_weight(model, layer).float()
                if v.shape[-1] == W_O.shape[1]:
                    written[layer] = torch.einsum("hpn,hnd->hpd", v, W_O).norm(dim=-1).cpu()

            with self._applied(scene, n_pos):
                end = read_attention(model, prompt.tokens.to(model.device), read, final=True)
            assert end.final is not None and end.normalised is not None  # nothing stopped the run
            wide = (end.final.to(model.wide), end.normalised.to(model.wide))
            return patterns, written, z, final_norm(model).scale(*wide)[0].cpu()

        if self._seen is None or self._seen[0] != scene:
            self._seen = (scene, look())
        return self._seen[1]

    def _copying(self, scene: Scene, prompt: Prompts, position: int | None) -> Float[Tensor, "layer head"]:
        _, query, earlier = Recurrences(prompt).matches
        patterns = self._patterns(scene, prompt)[0]
        totals = torch.zeros(patterns.shape[:3])
        totals.index_add_(2, query, patterns[:, :, query, earlier + 1])
        if position is not None:
            return totals[:, :, position]
        return totals[:, :, query.unique()].mean(-1) if len(query) else totals[:, :, 0] * torch.nan

    def _attributed(self, scene: Scene, prompt: Prompts, position: int, token: int) -> LogitAttributions:
        answers = torch.full_like(prompt.tokens, NO_ANSWER)
        answers[0, position] = token

        def split() -> LogitAttributions:
            with self._applied(scene, prompt.tokens.shape[1]):
                return attribute_logits(self.model, prompt, answers=answers)

        return self._remember(("attributed", scene, position, token), split)

    def _writes(self, head: Head, z: Tensor, scale: Tensor, behind: list[int]) -> dict[str, Any] | None:
        """The tokens whose logits one head raises and lowers most at one place, the final norm's scale held."""
        model = self.model
        if model.anatomy.projects_stream or model.anatomy.norm_after(head.layer) is not None:
            return None  # then what is written depends on what the layer's other heads write
        everyone = torch.zeros(1, model.n_heads, len(z)).to(z)
        everyone[0, head.head] = z
        read = read_by_projection(model, head.layer, everyone)[0, head.head]
        direction = (read @ output_weight(model, head.layer)[head.head] * model.anatomy.output_factor).to(model.wide)
        readers = self._remember(("readers",), lambda: unembedding_readers(model))
        logits = (readers @ direction).cpu()[: n_real_tokens(model)] / scale
        logits = logits - logits.mean()
        found = {}
        for name, largest in (("for", True), ("against", False)):
            some = logits.topk(min(LIKELIEST, len(logits)), largest=largest)
            found[name] = list(zip(self._texts(some.indices.tolist(), behind), numbers_of(some.values), strict=True))
        return found

    def _remember(self, key: tuple[Any, ...], find: Callable[[], Any]) -> Any:
        """What was found before; else find it now, and forget the oldest."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = find()
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]
