"""A small model that runs inside a page gives the numbers, and the refusals, of `LiveModel`; in a real Chromium."""

import random

import numpy as np
import pytest
import torch
from browsers import ARGUMENTS, CHROMIUM
from by_hand import model_of
from live_pages import TEXT
from pages import HostileTokenizer

from induction_lab import HookedModel, ablate, head_gallery, induction_circuit
from induction_lab.models.attention_only.clamping import clamp_for_good
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.pages.encoding import unpack
from induction_lab.pages.html import FOLDER
from induction_lab.pages.live.answers import MODES, LiveModel
from induction_lab.pages.live.in_page import fits_in_page, packed_model
from induction_lab.pages.live.scene import MOST_CHARACTERS, NAMED_METHODS, Scene

sync_api = pytest.importorskip("playwright.sync_api", reason="the page's browser tests need playwright")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")
SMALL = {"n_layers": 2, "n_heads": 3, "d_model": 20, "d_head": 6, "d_vocab": 40, "n_ctx": 32}
SHAPES = {
    "learned, biases": {"positions": "learned", "biases": True},
    "no positions, RMS": {"positions": "none", "norm_kind": "rms", "norm_eps": 1e-3},
    "rotary, biases, last norm RMS": {"biases": True, "norm_kind": "final_rms"},
    "no norm, no positions": {"positions": "none", "layer_norm": False},
    "no norm, learned, biases": {"positions": "learned", "layer_norm": False, "biases": True},
    "one layer, odd widths": {"positions": "learned", "n_layers": 1, "d_model": 13, "d_head": 5},
    "deep, few tokens": {"n_layers": 4, "n_heads": 5, "d_vocab": 5},
    "longer than is shown": {"n_ctx": 300, "d_vocab": 290},
}
HAND_BUILT = {"circuit": induction_circuit, "gallery": head_gallery}
ASK = """([data, questions]) => {
  const small = new SmallModel(data);
  return questions.map(([what, given]) => {
    try { return small.answer(what, given); } catch (error) { return { refused: error.message, kind: error.name }; }
  });
}"""


def random_model(seed: int, **shape) -> HookedModel:
    """Every parameter drawn, those too that begin as ones or zeros."""
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**SMALL | shape), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if last == "w" or last.startswith("b"):
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
            elif ".W_" in name:
                parameter.mul_(2.0)
    return HookedModel(network, name="random")


def questions_for(live: LiveModel, seed: int, n: int) -> list[tuple[str, dict]]:
    """Each question about random texts, in which tokens recur, with random heads changed at random."""
    draw, facts, found = random.Random(seed), live.facts(), []
    layers, heads, vocabulary = facts["n_layers"], facts["n_heads"], facts["d_vocab"]

    def head():
        return f"L{draw.randrange(layers)}H{draw.randrange(heads)}"

    for i in range(n):
        length = facts["most_tokens"] - 1 if i == 1 else draw.randrange(facts["most_tokens"])
        few = [draw.randrange(vocabulary) for _ in range(draw.choice([3, 8, vocabulary]))]
        changed = {head(): draw.choice([*NAMED_METHODS, draw.uniform(-2, 2)]) for _ in range(draw.randrange(4))}
        given = {"text": " ".join(str(draw.choice(few)) for _ in range(length)), "heads": changed}
        position = draw.randrange(length + 1)
        given |= {"position": position, "token": draw.randrange(vocabulary), "head": head()}
        given |= {"groups": [[head()], list({head() for _ in range(3)})]}
        found += [(what, given) for what in live.asked if what != "map"]
        found += [("map", given | {"mode": mode, "query": draw.choice([None, length])}) for mode in MODES]
        found += [("map", {"text": given["text"], "heads": changed, "mode": "copying"})]
        query = draw.randrange(length + 1)
        found += [("why_weight", given | {"query": query, "key": draw.randrange(query + 1)})]
    return found


def python_answer(live: LiveModel, what: str, given: dict) -> dict:
    try:
        return live.answer(what, given)
    except ValueError as error:
        return {"refused": str(error), "kind": "Error"}


@pytest.fixture(scope="module")
def ask():
    """Answers of a packed model to many questions, by the script in a page that has nothing else."""
    parts = [(FOLDER / "js" / "live" / f"{name}.js").read_text() for name in ("small_network", "small_model")]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page()
        tab.evaluate("\n".join(["(() => {\n'use strict';\n", *parts, "globalThis.SmallModel = SmallModel;\n})()"]))
        yield lambda live, questions: tab.evaluate(ASK, [packed_model(live), questions])
        browser.close()


close = {"rel": 1e-5, "abs": 1e-4}


def check(live: LiveModel, what: str, given: dict, found: dict) -> None:
    wanted = python_answer(live, what, given)
    assert found.keys() == wanted.keys(), (wanted.get("refused"), found.get("refused"))
    if "refused" in wanted or what in ("kinds", "facts"):
        assert found == wanted
    elif what == "predict":
        check_predictions(live, given, wanted, found)
    elif what == "costs":
        np.testing.assert_allclose(found["values"], wanted["values"], rtol=1e-4, atol=1e-4)
    elif what == "map":
        here, there = (np.array(answer["values"], dtype=float) for answer in (found, wanted))  # None: nan, in both
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-4)
    elif what == "head":
        here, there = unpack(found["pattern"]), unpack(wanted["pattern"])
        np.testing.assert_allclose(here, there, atol=1e-4)
        assert found["written"] == pytest.approx(wanted["written"], **close)
        for which in ("for", "against"):
            check_ranked(found["writes"][which], wanted["writes"][which])
    elif what == "why_token":
        check_parts(found, wanted)
    else:
        check_parts(found["q"], wanted["q"])
        check_parts(found["k"], wanted["k"])


def check_predictions(live: LiveModel, given: dict, wanted: dict, found: dict) -> None:
    """The likeliest of tokens that are equally likely may be any: that each has its probability is what counts."""
    assert (found["tokens"], found["ids"]) == (wanted["tokens"], wanted["ids"])
    scene = Scene.read(given, live.model)
    prompt = scene.prompt(live.model)
    log_p = {"whole": live._log_p(scene.untouched, prompt), "changed": live._log_p(scene, prompt)}
    for side in ("whole", "changed")[: 1 + bool(scene.changes)]:
        here, there = found[side], wanted[side]
        assert here.keys() == there.keys()
        assert here["nats"] == pytest.approx(there["nats"], abs=2e-4)
        np.testing.assert_allclose(np.log(here["p"]), np.log(there["p"]), atol=2e-4)
        others = [("p", side)] + ([("p_of_whole", "changed"), ("whole_p", "whole")] if side == "changed" else [])
        for name, of in others:
            ids = torch.tensor(found["whole" if name == "p_of_whole" else side]["ids"])
            assert all(len(set(row)) == len(row) for row in ids.tolist())
            np.testing.assert_allclose(np.log(here[name]), log_p[of].gather(1, ids), atol=2e-4)
        named = dict(zip(sum(there["ids"], []), sum(there["likeliest"], []), strict=True))
        assert all(named.get(i, x) == x for i, x in zip(sum(here["ids"], []), sum(here["likeliest"], []), strict=True))


def check_ranked(found: list, wanted: list) -> None:
    """The same values in the same order, and the same names but where two are equal to rounding."""
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], **close)
    for i, (name, value) in enumerate(wanted[:-1]):
        others = [other for j, (_, other) in enumerate(wanted) if j != i]
        if all(abs(abs(value) - abs(other)) > 1e-3 for other in others):
            assert found[i][0] == name


def check_parts(found: dict, wanted: dict) -> None:
    check_ranked([(n, abs(x)) for n, x in found["parts"]], [(n, abs(x)) for n, x in wanted["parts"]])
    there = dict(wanted["parts"])
    assert all(value == pytest.approx(there[name], **close) for name, value in found["parts"] if name in there)
    assert len(there) < 14 or len(there.keys() & dict(found["parts"]).keys()) >= 13
    assert found["others"][0] == wanted["others"][0]
    assert [found["others"][1], found["sum"]] == pytest.approx([wanted["others"][1], wanted["sum"]], rel=1e-4, abs=1e-3)


def check_all(ask, live: LiveModel, questions: list[tuple[str, dict]]) -> None:
    for (what, given), found in zip(questions, ask(live, questions), strict=True):
        try:
            check(live, what, given, found)
        except AssertionError as error:
            raise AssertionError(f"{what} {given}") from error


@needs_chromium
def test_the_bundled_model_answers_as_in_python(ask, bundled):
    live = LiveModel(bundled)
    check_all(ask, live, questions_for(live, seed=0, n=8))


@needs_chromium
@pytest.mark.parametrize("name", HAND_BUILT)
def test_hand_built_models_answer_as_in_python(ask, name):
    live = LiveModel(HookedModel(HAND_BUILT[name](d_vocab=24, n_ctx=30), name=name))
    check_all(ask, live, questions_for(live, seed=1, n=8))


@needs_chromium
@pytest.mark.parametrize("name", SHAPES)
def test_whatever_the_shape_the_answers_are_those_of_python(ask, name):
    seed = list(SHAPES).index(name)
    live = LiveModel(random_model(seed, **SHAPES[name]))
    check_all(ask, live, questions_for(live, seed=seed, n=3 if name.startswith("longer") else 8))


REFUSED = [
    ("predict", {"text": "7 " * (MOST_CHARACTERS // 2 + 1)}),
    ("predict", {"text": " ".join(["7"] * 300)}),
    ("predict", {"text": "999999"}),
    ("predict", {"text": "one two"}),
    ("predict", {"text": "-5"}),
    ("predict", {"text": "3.5"}),
    ("predict", {"text": 5}),
    ("predict", {"text": None}),
    *[("predict", {"text": TEXT, "heads": heads}) for heads in ([1], "L0H1", 5, True)],
    *[("predict", {"text": TEXT, "heads": {head: "mean"}}) for head in ("L9H0", "L0H4", "L0", "", "L0H1 L0H2")],
    *[("predict", {"text": TEXT, "heads": {"L0H0": how}}) for how in ("median", "m" * 50, 10**9, -101)],
    *[("predict", {"text": TEXT, "heads": {"L0H0": how}}) for how in (True, None, [1])],
    ("predict", {"text": TEXT, "heads": {"L0H1": "mean", "0.1": "zero"}}),
    ("map", {"text": TEXT, "mode": "beauty"}),
    ("map", {"text": TEXT}),
    ("map", {"text": TEXT, "mode": "looks_at"}),
    ("map", {"text": TEXT, "mode": "copying", "position": 10}),
    ("map", {"text": TEXT, "mode": "adds", "position": 3, "token": -1}),
    ("map", {"text": TEXT, "mode": "adds", "position": 3, "token": 256}),
    ("map", {"text": "", "mode": "adds", "position": 0, "token": 5}),
    ("map", {"text": TEXT, "mode": "looks_at", "position": 3, "query": 2}),
    *[("head", {"text": TEXT, "head": head, "position": 1}) for head in ("L0", "L5H0", 7, None, True)],
    *[("head", {"text": TEXT, "head": "L0H1", "position": at}) for at in (99, -1, 1.5, "1", None, True)],
    *[("why_weight", {"text": TEXT, "head": "L1H1", "query": q, "key": k}) for q, k in ((3, 0), (3, 4), (1, 1))],
    ("why_weight", {"text": "", "head": "L1H1", "query": 0, "key": 0}),
    ("why_token", {"text": "", "position": 0, "token": 1}),
    ("why_token", {"text": TEXT, "position": 3, "token": "5"}),
    *[("costs", {"text": TEXT, "groups": groups}) for groups in (None, [], [[]], "L0H0", [["L0H0"]] * 257, [["L5H0"]])],
    ("costs", {"text": TEXT, "groups": [["L0H1", "l0h1"]]}),
    ("costs", {"text": "", "groups": [["L0H1"]]}),
    ("delete", {}),
]  # fmt: skip
ODDLY_WRITTEN = [
    {"text": "  5,9 17\t33\n21,,5 "},
    {"text": "５ ９ ١٧"},
    {"text": "", "heads": []},
    {"heads": None},
    {"text": "005 9"},
    {"text": TEXT, "heads": {"(1, 2)": 0, " l0h1": -100, "1:3": 1}},
    {"text": TEXT, "heads": ""},
    {"text": TEXT, "heads": False},
]


@needs_chromium
def test_what_python_refuses_is_refused_with_the_same_words(ask, bundled):
    live = LiveModel(bundled)
    assert all("refused" in python_answer(live, what, given) for what, given in REFUSED)
    check_all(ask, live, REFUSED)


@needs_chromium
def test_what_is_written_oddly_is_read_alike(ask, bundled):
    live = LiveModel(bundled)
    assert not any("refused" in python_answer(live, "predict", given) for given in ODDLY_WRITTEN)
    check_all(ask, live, [("predict", given) for given in ODDLY_WRITTEN])


@needs_chromium
def test_what_is_kept_of_one_text_is_no_part_of_another(ask, bundled):
    """Typing, going back, changing a token in the middle and heads: each as if it were asked alone."""
    live, draw, ids, questions = LiveModel(bundled), random.Random(3), [5, 9, 17, 33, 5, 9], []
    for _ in range(60):
        how = draw.choice(["longer", "shorter", "middle", "again"])
        if how == "longer":
            ids = [*ids, draw.choice([5, 9, 17, 70])]
        elif how == "shorter":
            ids = ids[: max(1, len(ids) - draw.randrange(1, 4))]
        elif how == "middle":
            ids = [*ids]
            ids[draw.randrange(len(ids))] = draw.randrange(1, 256)
        heads = draw.choice([{}, {"L0H3": "ideal_induction"}, {"L0H3": "mean", "L1H2": 0.5}])
        given = {"text": " ".join(map(str, ids)), "heads": heads, "head": "L1H2", "position": len(ids), "token": 33}
        questions.append((draw.choice(["predict", "head", "why_token"]), given))
    assert ask(live, questions) == [ask(live, [question])[0] for question in questions]


class ShortTokenizer(HostileTokenizer):
    """The last rows of the embedding are no tokens."""

    def __len__(self):
        return 50


@needs_chromium
def test_tokens_of_a_model_with_a_tokenizer_are_shown_as_text_and_read_as_numbers(ask):
    network = random_model(4, d_vocab=60).network
    live = LiveModel(HookedModel(network, ShortTokenizer(), name="tokens"))
    assert live.facts()["reads_text"] and not packed_model(live)["facts"]["reads_text"]
    ids = live.answer("predict", {"text": "abcab"})["ids"]
    for what in ("predict", "head", "why_token"):
        given = {"text": "abcab", "head": "L1H1", "position": 4, "token": 7, "heads": {"L0H0": "zero"}}
        (found,) = ask(live, [(what, given | {"text": " ".join(map(str, ids[1:]))})])
        check(live, what, given, found)


NOT_IN_A_PAGE = {
    "MLPs": {"shape": {"d_mlp": 8}},
    "smeared keys": {"shape": {"smeared_keys": True}},
    "beside the stream": {"shape": {"positions": "shortformer"}},
    "no layers": {"shape": {"n_layers": 0}},
    "bfloat16": {"change": lambda network: network.bfloat16()},
    "clamped": {"change": lambda network: clamp_for_good(network, {"L0H0": "previous_token"})},
    "hooked": {"change": lambda network: network.embed.register_forward_hook(lambda *args: 2 * args[-1])},
    "16.0 MB": {"shape": {"d_vocab": 50_000, "d_model": 30}},
}


@pytest.mark.parametrize("reason", NOT_IN_A_PAGE)
def test_what_a_page_cannot_run_is_refused_before_it_is_written(reason):
    shape, change = NOT_IN_A_PAGE[reason].get("shape", {}), NOT_IN_A_PAGE[reason].get("change")
    model = random_model(0, **shape)
    if change:
        change(model.network)
    said = fits_in_page(model)
    assert said is not None and reason in said
    with pytest.raises(ValueError, match=reason):
        packed_model(LiveModel(model))


def test_models_of_transformers_and_ablated_ones_do_not_fit():
    said = fits_in_page(model_of("llama"))
    assert said is not None and "AttentionOnlyTransformer alone" in said
    model = random_model(0)
    assert fits_in_page(model) is None
    with ablate(model, "L0H1", method="zero"):
        said = fits_in_page(model)
    assert said is not None and "ablated" in said
