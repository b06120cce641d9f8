"""Does context turn a word's vector, to different sides for different senses, and do attention heads pull it there?

    python -m experiments geometry

32 words of two senses, six openings each (data/senses.toml), that end in the word after the same token. Read at the
word, layer by layer: the angle to its static embedding and to the word after a neutral opening; the angle between two
openings of one sense and of two; how well the senses separate (nearest centroid, the sentence left out, against
shuffled labels); and how far each head's output moves the vector to its own sense's side. Angles and centroids after
the mean over all words is taken off: what is large for every word says nothing of one. Raw angles are in the table.
Writes to figures/: geometry.csv (by layer), geometry_words.csv, geometry_heads.csv, geometry.json (verdicts),
geometry.png, geometry_paths.png (words' ways through the layers). About 1 minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from experiments.essay.geometry.figures import at, draw, draw_paths
from experiments.essay.geometry.senses import DATA, NEUTRAL, Read, Word, centred, load_words, read_words
from experiments.essay.geometry.separation import centroid_accuracy, even_splits, pair_cosines, pulls, shuffles
from experiments.harness import begin, common_arguments, show_files
from experiments.verdicts import OUTCOMES, Verdict, outcome, save_verdicts
from induction_lab import Head, HookedModel, load_model
from induction_lab.internals.head_outputs import adds_linearly, written_by_heads
from induction_lab.models.head_weights import output_weight

TURNED = 30.0  # degrees, in the middle layer, from the static embedding and from the word in no particular sense
ERRORS = 2.0  # standard errors over words
LEVEL = 0.05  # of a word's accuracy among shuffles, and of false discoveries among heads
MOST = 0.5  # of the words that must separate, of the heads that must pull
SHUFFLES, HEAD_SHUFFLES = 500, 20
# Three things were changed after the numbers had been seen, none of which lets more pass: the neutral word (below);
# "holds" became "holds with a caveat" where the control turns as far or where not every head pulls; and the shuffles of
# the heads' control mix both senses evenly. The numbers of the criteria are as they were fixed.


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    try:
        words = load_words(args.data)
        model = load_model(args.model)
        read = read_words(model, words)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    layers = pd.concat([angles(read, words), accuracies(read, words, args.seed)], ignore_index=True)
    by_word = separations(read, words, args.seed)
    best = best_layer(layers)
    heads, parts = heads_that_pull(model, read, words, best, args.seed)
    written = []
    for name, table in {"": layers, "_words": by_word, "_heads": heads}.items():
        written.append(args.out / f"geometry{name}.csv")
        table.assign(model=model.name).round(5).to_csv(written[-1], index=False)
    verdicts = [
        verdict_turned(model, layers), verdict_separate(model, layers, by_word), verdict_pull(model, heads, parts, best)
    ]  # fmt: skip
    written.append(save_verdicts(verdicts, args.out / "geometry.json"))
    for name, figure in {
        "": draw(model, layers, by_word, heads, best, level=LEVEL),
        "_paths": draw_paths(read, words),
    }.items():
        written.append(args.out / f"geometry{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def degrees(x: Tensor, y: Tensor) -> Tensor:
    return torch.cosine_similarity(x, y, dim=-1).clamp(-1, 1).acos().rad2deg()


def angles(read: Read, words: list[Word]) -> pd.DataFrame:
    """By layer, in degrees: means over words, with standard errors."""
    x, neutral = centred(read.stream, (1, 2)), centred(read.neutral, (1,))
    static = centred(read.static, (0,))
    found = {
        "angle to static embedding": degrees(x, static[:, None]).mean(2),
        "angle to static embedding, raw": degrees(read.stream, read.static[:, None]).mean(2),
        "angle to the neutral word": degrees(x, neutral[:, :, None]).mean(2),
        "angle of the neutral word to static embedding": degrees(neutral, static),
    }
    for name, vectors in {"": x, ", raw": read.stream}.items():
        same, other = pair_cosines(vectors, words[0].labels)
        found[f"angle within a sense{name}"] = same.clamp(-1, 1).acos().rad2deg()
        found[f"angle between senses{name}"] = other.clamp(-1, 1).acos().rad2deg()
    found["angle between less within"] = found["angle between senses"] - found["angle within a sense"]
    return over_words(found)


def accuracies(read: Read, words: list[Word], seed: int) -> pd.DataFrame:
    """By layer: how often a sentence is nearest to its own sense, and what else gives such numbers."""
    labels = words[0].labels
    x, before = centred(read.stream, (1, 2)), centred(read.before, (1, 2))
    half = len(labels) // 2
    splits = even_splits(half)
    within = [centroid_accuracy(part, splits).mean(0) for part in (x[:, :, :half], x[:, :, half:])]
    few = torch.arange(half) < half // 2
    picked = shuffles(few, len(splits), seed=seed)  # as many sentences as the halves have, of both senses
    small = torch.stack([centroid_accuracy(x[:, :, torch.cat([p, p])], few[None])[0] for p in picked]).mean(0)
    found = {
        "accuracy": centroid_accuracy(x, labels[None])[0],
        "accuracy, labels shuffled": centroid_accuracy(x, shuffles(labels, 50, seed=seed)).mean(0),
        "accuracy at the token before": centroid_accuracy(before, labels[None])[0],
        "accuracy, half the sentences": small,
        "accuracy, random halves of one sense": (within[0] + within[1]) / 2,
    }
    return over_words(found)


def over_words(found: dict[str, Float[Tensor, "layer word"]]) -> pd.DataFrame:
    rows = [
        {"layer": layer, "quantity": name, "value": float(x.mean()), "standard_error": float(x.std() / len(x) ** 0.5)}
        for name, values in found.items()
        for layer, x in enumerate(values)
    ]
    return pd.DataFrame(rows)


def separations(read: Read, words: list[Word], seed: int) -> pd.DataFrame:
    """Each word at its best layer, against shuffled labels at theirs: the choice of a layer is in both."""
    x, rows = centred(read.stream, (1, 2)), []
    for i, word in enumerate(words):
        own = centroid_accuracy(x[:, i], word.labels[None])[0]
        chance = centroid_accuracy(x[:, i], shuffles(word.labels, SHUFFLES, seed=seed + i)).amax(1)
        p = float(((chance >= own.max()).sum() + 1) / (SHUFFLES + 1))
        rows.append(
            {
                "word": word.word, "senses": " / ".join(word.senses), "best_layer": int(own.argmax()),
                "accuracy": float(own.max()), "shuffled_95": float(chance.quantile(1 - LEVEL)), "p": p,
                "separates": bool(own.max() > chance.quantile(1 - LEVEL)),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def best_layer(layers: Any) -> int:
    own = layers[layers["quantity"] == "accuracy"].set_index("layer")["value"]
    return max(1, int(own.idxmax()))


def heads_that_pull(
    model: HookedModel, read: Read, words: list[Word], top: int, seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Pull of every head below layer `top`, in distances between the senses' centroids there; and by kind."""
    labels = words[0].labels
    half = labels[::2]  # both senses in equal parts on either side: such labels know nothing of the sense
    mixed = zip(*(shuffles(half, HEAD_SHUFFLES, seed=seed + i) for i in range(2)), strict=True)
    tries = [labels, *(torch.cat(pair) for pair in mixed)]
    found = torch.zeros(len(tries), len(words), top * model.n_heads + 2)
    for i in range(len(words)):
        heads = head_outputs(model, read.z[:top, i])
        rest = read.stream[top, i] - read.stream[0, i] - heads.sum(0)  # MLPs and biases
        parts = torch.cat([heads, rest[None], read.stream[0, i][None]])
        for j, y in enumerate(tries):
            x = read.stream[top, i]
            found[j, i] = pulls(parts, x, y) / (x[y].mean(0) - x[~y].mean(0)).norm()
    own = found[0, :, :-2]
    whole = float(found[0].sum(1).mean())
    q = [q_values(each[:, :-2]) for each in found]
    table = pd.DataFrame(
        {
            "head": [str(Head(layer, h)) for layer in range(top) for h in range(model.n_heads)],
            "pull": own.mean(0).tolist(),
            "standard_error": (own.std(0) / len(own) ** 0.5).tolist(),
            "shuffled": found[1:, :, :-2].mean((0, 1)).tolist(),
            "words": (own > 0).float().mean(0).tolist(),
            "q": q[0],
        }
    )
    parts = {
        "heads": float(own.sum(1).mean()) / whole,
        "MLPs": float(found[0, :, -2].mean()) / whole,
        "whole": whole,
        "whole_error": float(found[0].sum(1).std()) / len(words) ** 0.5,
        "shuffled": float(found[1:].sum(2).mean()),
        "shuffled_share": float(np.mean([(each < LEVEL).mean() for each in q[1:]])),
    }
    return table, parts


def head_outputs(
    model: HookedModel, z: Float[Tensor, "layer sentence head d_head"]
) -> Float[Tensor, "part sentence d_model"]:
    """What each head adds to the stream, layer by layer; a norm of their sum is held at the scale that it has."""
    parts = []
    for layer, each in enumerate(z):
        if adds_linearly(model, layer):
            W_O = output_weight(model, layer).float().cpu() * model.anatomy.output_factor
            parts.append(torch.einsum("she,hed->hsd", each, W_O))
        else:
            alone = each[:, :, None].to(model.device, model.dtype)  # one position
            parts.append(written_by_heads(model, layer, alone, at=alone)[:, :, 0].transpose(0, 1).float().cpu())
    return torch.cat(parts)


def q_values(per_word: Float[Tensor, "word head"]) -> np.ndarray:
    """Of a pull above 0, by t-test over words, false discoveries held (Benjamini and Hochberg)."""
    test: Any = stats.ttest_1samp(per_word.numpy(), 0, alternative="greater")
    return stats.false_discovery_control(np.nan_to_num(test.pvalue, nan=1.0))


def said(layers: Any, layer: int, quantity: str, unit: str = "°") -> str:
    value, error = at(layers, layer, quantity)
    return f"{value:.1f} ± {error:.1f}{unit}" if unit else f"{value:.3f} ± {error:.3f}"


def verdict_turned(model: HookedModel, layers: Any) -> Verdict:
    middle, names = model.n_layers // 2, list(dict.fromkeys(layers["quantity"]))
    more, error = at(layers, middle, "angle between less within")
    turned = [at(layers, middle, f"angle to {what}")[0] > TURNED for what in ("static embedding", "the neutral word")]
    shown = [name for name in names if name.startswith("angle") and "less" not in name]
    own = "angle of the neutral word to static embedding"
    result: Any = outcome({model.name: all(turned) and more > ERRORS * error})
    if result["outcome"] == OUTCOMES[0] and at(layers, middle, own)[0] > TURNED:  # the control does it too
        result = {
            "outcome": OUTCOMES[1],
            "caveat": "That the vector leaves its static direction is the layers' own doing, with or without a telling "
            f"context (already {said(layers, 1, own)} after the first layer). "
            f"Two openings of one sense are {said(layers, middle, 'angle within a sense')} "
            f"apart themselves, which the {said(layers, middle, 'angle to the neutral word')} to the neutral word must "
            "be held against. What depends on the sense is the difference between senses and within one.",
        }
    return Verdict(
        claim="Context turns a word's vector away from its static direction, to different sides for different senses",
        source="essay §3",
        measured="Words of two senses, read at the word after openings for each sense, in the middle layer and the "
        "last; angles after the mean over all words is taken off, standard errors over words.",
        criterion=f"in the middle layer the angle to the static embedding and that to the neutral word exceed "
        f"{TURNED:.0f}°, and two openings of different senses lie further apart than two of the same sense, by more "
        f"than {ERRORS:.0f} standard errors",
        numbers={
            model.name: f"layer {middle}: between senses {more:+.1f} ± {error:.1f}° over within a sense",
            **{
                name: f"{said(layers, middle, name)}; last layer {said(layers, model.n_layers, name)}" for name in shown
            },
        },
        control=f"the word after '{NEUTRAL}': its angle to its static embedding is "
        f"{said(layers, middle, own)}; angle between senses in layer 0: {said(layers, 0, 'angle between senses')}",
        **result,
    )


def verdict_separate(model: HookedModel, layers: Any, by_word: Any) -> Verdict:
    best, third = best_layer(layers), model.n_layers // 3
    share = float(by_word["separates"].mean())
    rows = ["accuracy", "accuracy at the token before", "accuracy, half the sentences"]
    return Verdict(
        claim="The two senses of a word come to lie apart in the residual stream",
        source="essay §3",
        measured="Nearest centroid by cosine, the sentence left out, mean over words taken off; each word at its best "
        f"layer against {SHUFFLES} shuffles of its labels at theirs.",
        criterion=f"more than {MOST:.0%} of the words are above the 95th percentile of their shuffles",
        numbers={
            f"at layer {third}": "; ".join(f"{row} {said(layers, third, row, '')}" for row in rows),
            model.name: f"{by_word['separates'].sum()} of {len(by_word)} words ({share:.0%}); expected of shuffles 5 %",
            f"at layer {best}, the best in the mean": "; ".join(f"{row} {said(layers, best, row, '')}" for row in rows),
            "words that do not": ", ".join(by_word[~by_word["separates"]]["word"]) or "none",
        },
        control=f"at layer {best}: labels shuffled {said(layers, best, 'accuracy, labels shuffled', '')}; random "
        f"halves of one sense {said(layers, best, 'accuracy, random halves of one sense', '')} (as many "
        f"sentences of both senses: above); at layer 0, where a word is one vector, {said(layers, 0, 'accuracy', '')}",
        **outcome({model.name: share > MOST}),
    )


def verdict_pull(model: HookedModel, heads: Any, parts: dict[str, float], best: int) -> Verdict:
    pulling = heads["q"] < LEVEL
    top = heads.nlargest(5, "pull")
    first = ", ".join(f"{row['head']} {row['pull']:.3f} ± {row['standard_error']:.3f}" for _, row in top.iterrows())
    beyond = (heads["pull"] - heads["shuffled"]) / heads["standard_error"]  # labels that know nothing do not pull by 0
    result: Any = outcome({model.name: bool(pulling.mean() > MOST)})
    if result["outcome"] == OUTCOMES[0] and not pulling.all():  # the essay says every head
        told = f"Not every head does: {(~pulling).sum()} of {len(heads)} do not pass."
        result = {"outcome": OUTCOMES[1], "caveat": told}
    need = int((heads["pull"].sort_values(ascending=False).cumsum() < heads["pull"].sum() / 2).sum()) + 1
    return Verdict(
        claim="The attention heads, each for itself, pull the word's vector to the side of its sense",
        source="essay §3",
        measured=f"Each head's output below layer {best} (where senses separate best), less its midpoint of the two "
        "senses, on the direction between their centroids, both from the other sentences; in distances between the "
        "centroids, t-test over words.",
        criterion=f"more than {MOST:.0%} of the heads below pull to the right side, false discovery rate {LEVEL:.0%}",
        numbers={
            model.name: f"{pulling.sum()} of {len(heads)} heads ({pulling.mean():.0%}); strongest {first}",
            "where the way comes from": f"heads {parts['heads']:.0%}, MLPs {parts['MLPs']:.0%} of "
            f"{parts['whole']:.3f} ± {parts['whole_error']:.3f}",
            "half of the heads' net pull": f"comes from {need} heads",
            "against labels that know nothing": f"{(beyond > ERRORS).sum()} heads pull more by {ERRORS:.0f} errors, "
            f"{(beyond < -ERRORS).sum()} pull less, to the wrong side",
        },
        control=f"labels with half of each sense on either side, {HEAD_SHUFFLES} times: "
        f"{parts['shuffled_share']:.1%} of the heads pass, all that is "
        f"written pulls {parts['shuffled']:+.3f}",
        **result,
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a causal model with a tokenizer")
    parser.add_argument("--data", type=Path, default=DATA, help="words and sentences of your own")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffles")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
