"""What is looked for, and what is known, at which depth?

    python -m experiments layers

By layer: which kinds of heads stand where (on repeated tokens), how far heads look and how much they rest (on prose),
and when the next token can be read off the stream, by a lens that is fitted on other passages (lens.py), by kind of
token: inside a word, function words, fixed phrases, repeats in the context, facts, inferences, other words
(texts.toml, marked by hand; at most 100 of a kind). A token settles in the first layer from which on it stays among the
best 11; tokens that never do are left out. (The logit lens was the first choice: below the last layers it reads the
right token as badly as it reads noise. And a first run counted the function words of a phrase as the phrase.)
Writes to figures/: layers.csv, layers.json (verdicts), layers.png. 2 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from experiments.essay.layers.figure import HEADS, draw
from experiments.essay.layers.lens import foretold, read_off, streams_of
from experiments.essay.layers.settling import DRAWS, RANK, Tokens, alike, means, resampled, settles, shuffled, sums
from experiments.essay.of_models import names, on_models
from experiments.essay.prose import FACT, INFERENCE, INSIDE, KINDS, NONE, OTHER, PHRASE, as_tokens, read_prose
from experiments.judging import Effect, effect, judge, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel, Prompts, attention_spread, repeated_tokens, score_heads

LOOKS = 0.4  # what people call an induction head, or a previous-token head
LOWER = 0.1  # of the depth by which one kind must lie below another
FARTHER = 0.5  # rank correlation of layer and distance
SHALLOW = 1 / 3  # of the depth
MOST = 100  # tokens of a kind
FORM = ("previous_token", "duplicate_token")
ESSAY = "essay §4"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "layers",
        measured,
        lambda table: [
            below_induction(table), are_shallow(table), reach(table), form_is_low(table), phrases_are_shallow(table),
            form_facts_logic(table),
        ],
        draw,
        seed="prompts, and which tokens are read",
    )  # fmt: skip


def measured(model: HookedModel, seed: int) -> list[dict[str, Any]]:
    """A row for each head and quantity, each layer and lens, and each token with the layer where it settles."""
    prompts, kinds = as_tokens(model, read_prose())
    rows = looks(model, prompts, seed=seed) + known(model, prompts, kinds, seed=seed)
    return [{"model": model.name, "n_layers": model.n_layers, "n_texts": len(prompts), **row} for row in rows]


def looks(model: HookedModel, prose: Prompts, *, seed: int) -> list[dict[str, Any]]:
    """Scores of every head on repeated tokens, and how far it looks on prose and rests on BOS."""
    period = 20 if (model.n_ctx or 101) < 101 else 50
    repeated = repeated_tokens(model, n_prompts=8, period=period, seed=seed)
    scores: Any = score_heads(model, repeated, scores=list(HEADS), loss=False, progress=sys.stderr.isatty())
    scores = scores.to_dataframe().rename(columns={"score": "quantity", "mean": "value"})
    spread: Any = attention_spread(model, prose, progress=sys.stderr.isatty())
    spread = spread[spread["quantity"].isin(["distance_past_first", "first"])]
    both = pd.concat([each[["layer", "head", "quantity", "value"]] for each in (scores, spread)])
    return [{"part": "head", **{str(key): x for key, x in row.items()}} for row in both.to_dict("records")]


def known(model: HookedModel, prompts: Prompts, kinds: np.ndarray, *, seed: int) -> list[dict[str, Any]]:
    """How well the right token is read off each layer, by the fitted and the logit lens; and where each settles."""
    assert prompts.lengths is not None
    at = chosen(kinds, seed)
    place = torch.from_numpy(at)
    answers = prompts.tokens[place[:, 0], place[:, 1] + 1]
    there = torch.arange(prompts.tokens.shape[1])[None] < prompts.lengths[:, None]
    there[:, 0] = False
    stream = streams_of(model, prompts)
    fitted = foretold(stream, there)[:, place[:, 0], place[:, 1]]
    log_p, rank = read_off(model, fitted, answers)
    few = slice(None, None, 8)
    plain, _ = read_off(model, stream[:, place[few, 0], place[few, 1]], answers[few])
    rows: list[dict[str, Any]] = [
        {"part": "lens", "quantity": name, "layer": layer - 1, "value": value}
        for name, values in (("fitted lens", log_p), ("logit lens", plain))
        for layer, value in enumerate(values.mean(1).tolist())
    ]
    settled, last = settles(rank.numpy()), log_p[-1].numpy()
    third = np.digitize(last, np.quantile(last[settled >= -1], [1 / 3, 2 / 3]))
    rows += [
        {"part": "token", "kind": KINDS[kinds[text, query]], "text": text, "layer": layer, "third": of_three}
        for (text, query), layer, of_three in zip(at.tolist(), settled.tolist(), third.tolist(), strict=True)
        if layer >= -1
    ]
    return rows


def chosen(kinds: np.ndarray, seed: int) -> np.ndarray:
    """Text and position of the tokens that are read: of each kind all, or `MOST` of them at random."""
    rng, found = np.random.default_rng(seed), []
    for kind in range(len(KINDS)):
        places = np.argwhere((kinds == kind) & (np.arange(kinds.shape[1]) > 0))
        found.append(rng.permutation(places)[:MOST] if kind != NONE else places[:0])
    return np.concatenate(found)


def of(table: pd.DataFrame, model: str, part: str) -> Any:
    """One part of a model's rows."""
    return table[(table["model"] == model) & (table["part"] == part)]


def depths(table: pd.DataFrame, model: str, score: str) -> list[float]:
    """Where heads of a kind stand: 0 is the lowest layer, 1 the highest."""
    rows = of(table, model, "head")
    rows = rows[(rows["quantity"] == score) & (rows["value"] >= LOOKS)]
    return (rows["layer"] / max(1, int(rows["n_layers"].iloc[0]) - 1)).tolist() if len(rows) else []


def stand(table: pd.DataFrame, model: str) -> str:
    """How many heads of each kind there are, and at what mean depth."""
    found = {name: depths(table, model, name) for name in (*FORM, "prefix_matching")}
    return ", ".join(
        f"{name} {len(each)} heads" + (f" at {sum(each) / len(each):.2f} of the depth" if each else "")
        for name, each in found.items()
    )


def below_induction(table: pd.DataFrame) -> Verdict:
    """Do heads that match tokens and positions stand below those that complete patterns?"""
    effects, numbers, control = {}, {}, []
    for model in names(table):
        upper = depths(table, model, "prefix_matching")
        lower = {name: each for name in FORM if (each := depths(table, model, name))}
        gaps = {name: difference(upper, each) for name, each in lower.items()} if upper else {}
        numbers[model] = stand(table, model) + "".join(f"; {name} below {told(gap)}" for name, gap in gaps.items())
        if gaps:
            effects[model] = min(gaps.values(), key=lambda gap: gap.value)
            control.append(
                f"{model} up to {max(shuffled_gap(upper, each) for each in lower.values()):.2f} of the depth"
            )
    return Verdict(
        claim="Shallow blocks look for form: previous-token and duplicate-token heads sit below induction heads",
        source=ESSAY,
        measured=f"mean depth (0 to 1) of the heads that score at least {LOOKS} on repeated random tokens, induction "
        "heads less either kind; the lesser of both, standard errors over heads",
        criterion=f"by more than {LOWER:.0%} of the depth",
        numbers=numbers,
        control="labels shuffled among these heads, 95 % of the shuffles: " + ("; ".join(control) or "no such heads"),
        **judge(effects, LOWER, unit="of the depth"),
    )


def difference(upper: list[float], lower: list[float]) -> Effect:
    """Of two means, the errors of both."""
    above, below = effect(upper), effect(lower)
    error = float(np.hypot(above.error or 0.0, below.error or 0.0))
    return Effect(above.value - below.value, error or None, len(upper) + len(lower))


def shuffled_gap(upper: list[float], lower: list[float]) -> float:
    """What 95 % of differences lie below that shuffled labels give."""
    rng, every = np.random.default_rng(0), np.array([*upper, *lower])
    mixed = [rng.permutation(every) for _ in range(DRAWS)]
    return float(np.quantile([each[: len(upper)].mean() - each[len(upper) :].mean() for each in mixed], 0.95))


def are_shallow(table: pd.DataFrame) -> Verdict:
    own = {model: [x for name in FORM for x in depths(table, model, name)] for model in names(table)}
    lowest = {
        model: [x / max(1, int(of(table, model, "head")["n_layers"].iloc[0]) - 1) for x in best_layers(table, model)]
        for model in own
    }
    return Verdict(
        claim="And these heads stand in shallow blocks",
        source=ESSAY,
        measured="mean depth (0 to 1) of the same previous-token and duplicate-token heads together",
        criterion="within the lowest third",
        numbers={model: stand(table, model) for model in own},
        control="the one best head of each kind stands at "
        + "; ".join(f"{model} {', '.join(f'{x:.2f}' for x in each)}" for model, each in lowest.items()),
        **judge(
            {model: effect(each) for model, each in own.items() if each}, SHALLOW, at_most=True, unit="of the depth"
        ),
    )


def best_layers(table: pd.DataFrame, model: str) -> list[int]:
    """The layer of the best head of either kind that looks for form."""
    rows = of(table, model, "head")
    return [int(rows.loc[rows[rows["quantity"] == name]["value"].idxmax(), "layer"]) for name in FORM]


def correlation(x: Any, y: Any) -> float:
    """Spearman's."""
    found: Any = spearmanr(x, y)
    return float(found.statistic)


def reach(table: pd.DataFrame) -> Verdict:
    """Do deeper layers look farther?"""
    effects, numbers, control = {}, {}, []
    for model in names(table):
        heads = of(table, model, "head")
        far, first = (
            heads[heads["quantity"] == name].groupby("layer")["value"].mean().to_numpy()
            for name in ("distance_past_first", "first")
        )
        n = len(far)
        layers = np.arange(n)
        rho = correlation(layers, far) if n > 2 else 0.0
        left = [correlation(np.delete(layers, i), np.delete(far, i)) for i in range(n)] if n > 3 else [rho, rho]
        error = float((((n - 1) / n) * np.square(np.array(left) - np.mean(left)).sum()) ** 0.5)
        effects[model] = Effect(rho, error, n)
        third = max(1, n // 3)
        parts = {"lowest third": slice(None, third), "highest": slice(-third, None)}
        numbers[model] = f"rank correlation {told(effects[model])}; " + ", ".join(
            f"{name} {far[part].mean():.1f} tokens, {first[part].mean():.0%} rests on BOS"
            for name, part in parts.items()
        )
        control.append(f"{model} {correlation(layers, first) if n > 2 else 0.0:+.2f}")
    return Verdict(
        claim="Shallow blocks look nearby, deep ones at the whole context",
        source=ESSAY,
        measured="attention distance on prose of what does not rest on BOS, mean of a layer's heads; its rank "
        "correlation with the layer, errors by leaving out each layer in turn",
        criterion=f"a rank correlation above {FARTHER}",
        numbers=numbers,
        control="what rests on BOS, with the layer: " + "; ".join(control),
        **judge(effects, FARTHER, unit="rank correlation"),
    )


class Settled:
    """Where kinds of tokens settle in one model, in layers, and by how much one kind lies above another."""

    def __init__(self, table: pd.DataFrame, model: str) -> None:
        """Take the tokens of one model, and texts drawn anew."""
        rows = of(table, model, "token")
        self.n_layers, self.n_texts = int(rows["n_layers"].iloc[0]), int(rows["n_texts"].iloc[0])
        kind = np.array([KINDS.index(name) for name in rows["kind"]])
        self.tokens = Tokens(*(np.asarray(x, dtype=int) for x in (rows["text"], kind, rows["layer"], rows["third"])))
        self.rng = np.random.default_rng(0)
        self.made = sums(self.tokens, self.n_texts)
        self.draws = resampled(self.made, self.rng)
        self.mean, self.spread = means(self.made.sum(1)), means(self.draws)

    def at(self, kind: str) -> Effect:
        """The mean depth (0: the embedding, 1: after the highest layer) at which a kind settles."""
        i = KINDS.index(kind)
        return Effect(
            float(self.mean[i] + 1) / self.n_layers, float(np.nanstd(self.spread[:, i])) / self.n_layers, self.n_texts
        )

    def gap(self, low: str, high: str) -> Effect:
        """By how much of the depth the higher kind settles above the lower."""
        i, j = KINDS.index(low), KINDS.index(high)
        spread = self.spread[:, j] - self.spread[:, i]
        return Effect(
            float(self.mean[j] - self.mean[i]) / self.n_layers, float(np.nanstd(spread)) / self.n_layers, self.n_texts
        )

    def numbers(self, *kinds: str) -> str:
        """Where each of some kinds settles."""
        count = [int((self.tokens.kind == KINDS.index(kind)).sum()) for kind in kinds]
        return ", ".join(
            f"{kind} at {self.at(kind).value:.2f} ± {self.at(kind).error:.2f} ({n})"
            for kind, n in zip(kinds, count, strict=True)
        )

    def control(self, low: str, high: str) -> str:
        """The same difference with kinds shuffled, and among tokens that are equally likely at the end."""
        i, j = KINDS.index(low), KINDS.index(high)
        chance = np.nanquantile(shuffled(self.tokens, i, j, self.n_texts, self.rng), 0.95) / self.n_layers
        equal = alike(self.made.sum(1), i, j) / self.n_layers
        error = np.nanstd(alike(self.draws, i, j)) / self.n_layers
        shuffles = f"kinds shuffled within texts at most {chance:+.2f} (95 %)"
        return f"{low} below {high}: {shuffles}, among tokens equally likely at the end {equal:+.2f} ± {error:.2f}"


HOW = (
    f"the first layer from which on a fitted lens holds at most {RANK} tokens likelier than the right one, as a share "
    "of the depth, mean over tokens of which that is true in the end; errors over texts drawn anew. The lens reads the "
    "right token at every depth: "
)


def lens_of(table: pd.DataFrame) -> str:
    """How well the lenses read the right token, low and in the middle."""
    parts = []
    for model in names(table):
        rows = of(table, model, "lens")
        found = {}
        for name in ("fitted lens", "logit lens"):
            values = rows[rows["quantity"] == name]["value"].tolist()
            found[name] = f"{values[0]:.1f}, {values[len(values) // 2]:.1f}, {values[-1]:.1f}"
        parts.append(f"{model} log-probability (embedding, middle, end) {found['fitted lens']} nats, logit lens "
                     f"{found['logit lens']}")  # fmt: skip
    return HOW + "; ".join(parts)


def form_is_low(table: pd.DataFrame) -> Verdict:
    found = {model: Settled(table, model) for model in names(table)}
    gaps = {model: each.gap(INSIDE, OTHER) for model, each in found.items()}
    return Verdict(
        claim="Form is settled low: the rest of a word is known at a lower layer than other words",
        source=ESSAY,
        measured=lens_of(table),
        criterion=f"lower by more than {LOWER:.0%} of the depth",
        numbers={model: f"{told(gaps[model])}; {each.numbers(INSIDE, OTHER)}" for model, each in found.items()},
        control="; ".join(f"{model} {each.control(INSIDE, OTHER)}" for model, each in found.items()),
        **judge(measurable(gaps), LOWER, unit="of the depth"),
    )


def phrases_are_shallow(table: pd.DataFrame) -> Verdict:
    found = {model: Settled(table, model) for model in names(table)}
    at = {model: each.at(PHRASE) for model, each in found.items()}
    return Verdict(
        claim="San → Francisco is the business of shallow blocks",
        source=ESSAY,
        measured=lens_of(table),
        criterion="later words of fixed phrases settle within the lowest third of the layers",
        numbers={
            model: f"{each.numbers(PHRASE, OTHER)}; below other words by {told(each.gap(PHRASE, OTHER))}"
            for model, each in found.items()
        },
        control="; ".join(f"{model} {each.control(PHRASE, OTHER)}" for model, each in found.items()),
        **judge(measurable(at), SHALLOW, at_most=True, unit="of the depth"),
    )


def form_facts_logic(table: pd.DataFrame) -> Verdict:
    found = {model: Settled(table, model) for model in names(table)}
    steps = ((INSIDE, FACT), (FACT, INFERENCE))
    gaps = {model: [each.gap(*step) for step in steps] for model, each in found.items()}
    return Verdict(
        claim="From form over facts to logic: what is inferred settles above facts, facts above form",
        source=ESSAY,
        measured=lens_of(table),
        criterion="facts settle above the rest of words, and inferences above facts: the lesser of both is above 0",
        numbers={
            model: f"{each.numbers(INSIDE, FACT, INFERENCE)}; facts higher by {told(gaps[model][0])}, inferences by "
            f"{told(gaps[model][1])}"
            for model, each in found.items()
        },
        control="; ".join(f"{model} {each.control(*step)}" for model, each in found.items() for step in steps),
        **judge(
            measurable({model: min(each, key=lambda gap: gap.value) for model, each in gaps.items()}),
            0.0,
            unit="of the depth",
        ),
    )


def measurable(effects: dict[str, Effect]) -> dict[str, Effect]:
    """Without models in which no token of a kind is known in the end."""
    return {model: each for model, each in effects.items() if np.isfinite([each.value, each.error or 0.0]).all()}


if __name__ == "__main__":
    main(sys.argv[1:])
