"""What the experiment context_fusion concludes."""

from __future__ import annotations

from typing import Any

from experiments.essay.context_fusion.minimal_pairs import FORMS, PERSON, WITHOUT
from experiments.judging import Effect, by_construction, judge
from experiments.verdicts import Verdict

SEEN = 1e-4  # of the stream's size: a greater difference at "it" would not be rounding
SHARE = 0.25  # of the word's effect: less is not "a few heads carry it"
DOUBLED = 0.693  # of log-odds: the word doubles the odds, beyond what it does alone
ESSAY = "essay §2.2"
KINDS = {
    "it": 'Once "tired" or "wide" is there, the model knows which noun "it" means',
    "adjective": "Also where the word could be said of either noun, and only how the two stand to each other decides",
}
TOLD = {
    "question": "asked without the word",
    "named": "asked with the word",
    "lexical": "the same where neither noun stands before",
    "alone": "with the word, where neither noun stands before",
}


def at_it(table: Any, n_heads: int) -> Verdict:
    checked, numbers, control = {}, {}, []
    for model, own in _by_model(table):
        rows = own[own["kind"] == "it"].set_index("quantity")
        apart, word = rows.loc["difference at it"], rows.loc["difference at word"]
        looking = _by_heads(own, "attention from it").loc["best"]
        same = apart["value"] <= SEEN and looking["value"] <= SEEN
        checked[model] = bool(same and word["value"] > SEEN)
        numbers[f'{model}: difference of the streams at "it"'] = (
            f"{apart['value']:.2g} of their size, mean of {apart['pairs']} pairs; attention from there, right less "
            f"wrong noun, {_told(looking)} (the {n_heads} best heads)"
        )
        control.append(f"{model} {word['value']:.2f} ± {word['standard_error']:.2f}")
    return Verdict(
        claim='A model that reads left to right cannot fuse into "it" the noun that "tired" goes with: it has not read '
        '"tired" yet',
        source=ESSAY,
        measured='the residual stream and the attention at "it" in two sentences that differ only in a later word',
        criterion=f'the streams at "it" of the two sentences differ by at most {SEEN:g} of their size, attention from '
        f"there prefers the right noun by no more, and at the word itself the streams differ by more than {SEEN:g}",
        numbers=numbers,
        control="at the word itself the streams differ by " + "; ".join(control),
        **by_construction(checked),
    )


def named(table: Any, kind: str) -> Verdict:
    effects, numbers, control, undecided = {}, {}, [], {}
    for model, every in _by_model(table):
        own = every[every["kind"] == kind]
        if own.empty:
            continue
        beyond = own[own["quantity"] == "beyond the word alone"].set_index("question")
        effects[model] = _effect(beyond.loc["question"])
        moved, right = (own[own["quantity"] == name].set_index("question") for name in ("log-odds moved", "accuracy"))
        alone, with_nouns = (_effect(moved.loc[form]) for form in ("lexical", "question"))
        if alone.value > 2 * (alone.error or 0) and alone.value >= with_nouns.value:
            undecided[model] = (
                f"{model}: the word moves as much where neither noun was named, so that the question cannot tell "
                "knowing from words that suit each other."
            )
        if kind == "adjective" and not _found_where_it_must(every):
            undecided[model] = (
                f"{model}: the question does not find, beyond the word alone, whom he or she or were and was speak of, "
                "so that not finding this says nothing."
            )
        for form in (form for form in FORMS if form in moved.index):
            told = f"log-odds moved by {_told(moved.loc[form])}, {right.loc[form, 'value']:.0%} right"
            if form in WITHOUT:
                numbers[f"{model}, {TOLD[form]}"] = (
                    f"{told} of {moved.loc[form, 'pairs']} pairs; beyond the word alone {_told(beyond.loc[form])}"
                )
            else:
                control.append(f"{model}, {TOLD[form]}: {told}")
        others = [
            f"{other} {_told(found)}"
            for other in every["kind"].unique()
            for _, found in every[
                (every["kind"] == other) & (every["quantity"] == "beyond the word alone")
                & (every["question"] == "question")
            ].iterrows()
            if other not in KINDS
        ]  # fmt: skip
        if kind == "it" and others:
            numbers[f"{model}, where the gap is the pronoun or the verb"] = "; ".join(others)
    return Verdict(
        claim=KINDS[kind],
        source=ESSAY,
        measured="by how much the one word for the other moves the log-odds between the two nouns after a question, "
        "within each pair; less what it moves where a clause with the word, and neither noun, stands before the same "
        "question: that the word does by itself (tired animals are written of more than tired streets)",
        criterion=f"beyond the word alone it moves the log-odds by more than {DOUBLED:g}, twice the odds; not decided "
        "where the word alone moves as much, or where what the pronoun or the verb says is not found either (the leads "
        "had been seen before, the control had not; the last two clauses were added when it had)",
        numbers=numbers,
        control="; ".join(control),
        **judge(effects, DOUBLED, unit="of log-odds", undecided=undecided),
    )


def looks(table: Any, n_heads: int) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model, own in _by_model(table):
        rows, end = (_by_heads(own, f"attention from {place}") for place in ("word", "end"))
        of_person = _by_heads(own, "attention from word, of a person").loc["best"]
        effects[model] = _effect(_by_heads(own, "half of the attention less that of a person").loc["best"])
        numbers[model] = (
            f"from the word {_told(rows.loc['best'])} ({rows.loc['best', 'members']}), with {PERSON} in the place of "
            f'"it" {_told(of_person)}; from the end of the question {_told(end.loc["best"])}'
        )
        others = (each[each.index.str.startswith("random")]["value"] for each in (rows, end))
        told = (f"{each.min():+.3f} to {each.max():+.3f}" for each in others)
        control.append(f"{model} from the word {next(told)}, from the end {next(told)}")
    return Verdict(
        claim="Attention finds the right noun: from the deciding word on, it goes to the noun that fits",
        source=ESSAY,
        measured=f"attention to the right noun less that to the wrong one, mean of the {n_heads} heads that prefer it "
        "most on half of the pairs, read on the other half; from the word, and from the end of the question",
        criterion=f'at most half of it is left when "it" is a person ({PERSON}), of whom the word is then said: what '
        "stays goes by words that suit each other, not by what is meant (half of the attention less that of the person "
        "is above 0)",
        numbers=numbers,
        control="random sets of as many heads in the same layers: " + "; ".join(control),
        beforehand=True,
        **judge(effects, 0.0, unit="of attention"),
    )


def few_heads(table: Any, n_heads: int) -> Verdict:
    effects, numbers, control, undecided, without_nouns = {}, {}, [], {}, []
    for model, own in _by_model(table):
        moved = own[(own["quantity"] == "log-odds moved") & (own["question"] == "question")].set_index("kind")
        for kind in own[own["quantity"] == "share carried"]["kind"].unique():
            rows = _by_heads(own[own["kind"] == kind], "share carried")
            top = rows[rows.index.str.startswith("top")].iloc[-1]
            others = rows[rows.index.str.startswith("random")]["value"]
            there = moved.loc[kind, "value"] > 2 * moved.loc[kind, "standard_error"]
            told = f"{top['value']:.0%} ± {top['standard_error']:.0%} of the word's effect on {top['pairs']} pairs"
            numbers[f"{model}, {kind}"] = told if there else "the effect is within 2 standard errors of 0: not judged"
            if there:
                control.append(f"{model}, {kind} {others.min():.0%} to {others.max():.0%}")
            if kind == "it":
                numbers[f"{model}, {kind}"] += f" ({top['members']})"
                effects |= {model: _effect(top)} if there else {}
                if there and top["value"] <= others.abs().max():
                    undecided[model] = f"{model}: a random set moves it as much, in either direction."
        alone = own[own["quantity"] == "share of the word alone"].iloc[0]
        without_nouns.append(alone["value"])
        numbers[f"{model}, where neither noun stands before"] = (
            f"{alone['value']:.0%} ± {alone['standard_error']:.0%} of what the word does alone goes with the same heads"
        )
        word, noun = _by_heads(own, "attention to the word")["value"], _by_heads(own, "attention from end")
        numbers[f"{model}, attention from the end"] = (
            f"to the word {word['carriers']:.3f} (random sets at most {word.drop('carriers').max():.3f}), to the right "
            f"noun less the wrong one {_told(noun.loc['carriers'])}"
        )
    as_well = (
        "The same heads carry as well what the word does where neither noun was named: what suits it, rather than what "
        "is meant."
    ) * all(alone > SHARE for alone in without_nouns)
    return Verdict(
        claim="A few heads bring what the word decides to where the noun is named",
        source=ESSAY,
        measured=f'{n_heads} heads, chosen on half of the pairs of kind "it", put out what they do in the pair\'s '
        "other sentence; of the word's effect on the right noun's lead, what goes with them on other pairs and kinds "
        "(100 %: the lead turns into its negative, as with all heads exchanged)",
        criterion=f'on the held-out pairs of kind "it" more than {SHARE:.0%}, and more than every random set moves it '
        "in either direction (that of the other direction was added after the numbers had been seen)",
        numbers=numbers,
        control=f"random sets of {n_heads} heads in the same layers: " + "; ".join(control),
        **judge(effects, SHARE, unit="of the word's effect", undecided=undecided, caveat=as_well),
    )


def _found_where_it_must(table: Any) -> bool:
    """Whether, beyond the word alone, the question finds what a pronoun's gender or a verb's number says."""
    beyond = table[(table["quantity"] == "beyond the word alone") & (table["question"] == "question")]
    known = beyond[beyond["kind"].isin(["pronoun", "agreement"])]
    return bool((known["value"] > 2 * known["standard_error"]).all())


def _by_model(table: Any) -> Any:
    return ((str(model), table[table["model"] == model]) for model in dict.fromkeys(table["model"]))


def _effect(found: Any) -> Effect:
    return Effect(float(found["value"]), float(found["standard_error"]), int(found["pairs"]))


def _by_heads(table: Any, quantity: str) -> Any:
    return table[table["quantity"] == quantity].set_index("heads")


def _told(found: Any) -> str:
    return f"{found['value']:+.3f} ± {found['standard_error']:.3f}"
