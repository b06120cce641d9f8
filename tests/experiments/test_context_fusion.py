import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import Head, capture, load_model
from induction_lab.internals.residual_stream import residual_streams

context_fusion, conclusions = (script(f"essay.context_fusion.{name}") for name in ("experiment", "conclusions"))
minimal_pairs, passages = script("essay.context_fusion.minimal_pairs"), script("essay.passages")
DATA = passages.read_data(minimal_pairs.PAIRS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(minimal_pairs.PAIRS, tmp_path_factory.mktemp("fusion") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def asked(model):
    pairs, left_out = minimal_pairs.read_pairs(model, DATA, 5)
    assert left_out == 0 and len(pairs) == 20
    return minimal_pairs.ask(model, DATA, [pair for pair in pairs if pair.kind == "it"])


def words(model, passages, mark, row):
    first, last = passages.marks[mark][row].tolist()
    return model.tokenizer.convert_ids_to_tokens(passages.tokens[row, first : last + 1].tolist())


def test_marks_are_where_the_words_are(model):
    texts = ["the <who|dog and the cat> ran off", "a <who|cow> ran"]
    read = passages.read_passages(model, texts)
    assert words(model, read, "who", 0) == ["dog", "and", "the", "cat"] and words(model, read, "who", 1) == ["cow"]
    assert read.tokens[1, 4:].tolist() == [model.bos_token_id] * 4 and read.last.tolist() == [7, 3]
    with pytest.raises(ValueError, match="need the same marks"):
        passages.read_passages(model, ["a <who|dog>", "a dog"])
    with pytest.raises(ValueError, match="context of words holds 256"):
        passages.read_passages(model, ["a dog " * 200])


def test_a_pair_is_one_sentence_with_two_words_and_the_question_after_it(model, asked):
    assert model.tokenizer.convert_ids_to_tokens(asked.passages.tokens[5].tolist())[: asked.passages.last[5] + 1] == (
        '[BOS] The animal didn \' t cross the street because it was too wide . The word " it " here means the'.split()
    )
    for row, noun, word in ((0, "animal", "tired"), (5, "animal", "wide")):
        for mark, expected in (("first", noun), ("it", "it"), ("word", word)):
            assert words(model, asked.passages, mark, row) == [expected]
    pairs = asked.pairs
    named = minimal_pairs.ask(model, DATA, pairs, "alone").passages
    assert model.tokenizer.decode(named.tokens[5, 1 : named.last[5] + 1]) == "The thing that was too wide was the"
    lexical = minimal_pairs.ask(model, DATA, pairs, "lexical").passages
    assert model.tokenizer.decode(lexical.tokens[5, 1 : lexical.last[5] + 1]) == (
        'That is so because it was too wide . The word " it " here means the'
    )
    person = minimal_pairs.ask(model, DATA, pairs, "person").passages
    assert words(model, person, "it", 5) == ["Tom"] and words(model, person, "word", 5) == ["wide"]


@pytest.mark.parametrize("kind", list(DATA))
def test_the_word_alone_is_asked_the_same_question_and_names_no_noun(model, kind):
    own = [pair for pair in minimal_pairs.read_pairs(model, DATA)[0] if pair.kind == kind]
    for form, alone in minimal_pairs.WITHOUT.items():
        if form not in DATA[kind]:
            continue
        whole, bare = (minimal_pairs.ask(model, DATA, own, name).passages for name in (form, alone))
        for row in range(2 * len(own)):
            pair = own[row % len(own)]
            said = model.tokenizer.decode(bare.tokens[row, 1 : bare.last[row] + 1]).split()
            assert not {*pair.nouns} & {*said} and {*pair.words[row // len(own)].split()} <= {*said}
            assert whole.tokens[row, whole.last[row] - 2 : whole.last[row] + 1].tolist() == (
                bare.tokens[row, bare.last[row] - 2 : bare.last[row] + 1].tolist()
            )


@pytest.mark.parametrize("kind", list(DATA))
def test_every_pair_of_the_file_differs_in_the_word_alone(model, kind):
    pairs = [pair for pair in minimal_pairs.read_pairs(model, DATA)[0] if pair.kind == kind]
    assert len(pairs) >= (40 if kind == "it" else 14) and len({pair.sentence for pair in pairs}) == len(pairs)
    read = minimal_pairs.ask(model, DATA, pairs)
    differ = (read.passages.tokens[: len(pairs)] != read.passages.tokens[len(pairs) :]).nonzero()
    assert torch.equal(differ[:, 1], read.passages.marks["word"][: len(pairs), 0])
    for noun in (0, 1):
        mark = ("first", "second")[noun]
        assert [words(model, read.passages, mark, row) for row in range(len(pairs))] == [[p.nouns[noun]] for p in pairs]


def test_the_lead_is_the_right_noun_s_logit_less_the_wrong_one_s(model, asked):
    lead = asked.lead(model, model.hidden(asked.passages.tokens))
    for pair, (first, second) in enumerate(asked.answers.tolist()):
        for word in (0, 1):
            row = pair + word * len(asked.pairs)
            tokens = asked.passages.tokens[row : row + 1, : asked.passages.last[row] + 1]  # without what fills it up
            logits = model.logits(tokens)[0, -1]
            expected = logits[second] - logits[first] if word else logits[first] - logits[second]
            torch.testing.assert_close(lead[pair, word], expected, atol=1e-4, rtol=1e-4)


def test_a_causal_model_is_the_same_up_to_the_word_and_no_longer(model, asked):
    streams = residual_streams(model, asked.passages.tokens)
    apart = minimal_pairs.differences(asked, streams)
    for pair, at in enumerate(asked.passages.marks["word"][: len(asked.pairs), 0].tolist()):
        assert apart[:, pair, :at].max() == 0 and apart[:, pair, at].min() > 0.1
    preference = minimal_pairs.preference(asked, streams)
    assert preference["it"].abs().max() == 0 and preference["word"].abs().max() > 0.01


def test_preference_is_what_the_patterns_say(model, asked):
    streams = residual_streams(model, asked.passages.tokens)
    found, to_word = minimal_pairs.preference(asked, streams)["end"], minimal_pairs.attention_to_word(asked, streams)
    pattern, pair = capture(model, asked.passages.prompts, "pattern")["pattern", 1], 2
    expected, expected_word = torch.zeros(4), torch.zeros(4)
    for word, sign in ((0, 1), (1, -1)):
        row = pair + word * len(asked.pairs)
        first, second = (int(asked.passages.marks[noun][row, 0]) for noun in ("first", "second"))
        end = int(asked.passages.last[row])
        expected += sign * (pattern[row, :, end, first] - pattern[row, :, end, second]) / 2
        expected_word += pattern[row, :, end, int(asked.passages.marks["word"][row, 1])] / 2
    torch.testing.assert_close(found[pair, 1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(to_word[pair, 1], expected_word, atol=1e-5, rtol=1e-4)


def test_with_all_heads_exchanged_the_leads_are_each_other_s(model, asked):
    exchange = minimal_pairs.Exchange(model, asked)
    every = [Head(layer, head) for layer in range(2) for head in range(4)]
    torch.testing.assert_close(exchange.without(every), -exchange.lead.flip(1), atol=1e-4, rtol=1e-4)
    value, error = context_fusion.share(exchange.lead.mean(1), exchange.without(every).mean(1), seed=0)
    assert value == pytest.approx(1, abs=1e-4) and error < 1e-3
    assert context_fusion.share(exchange.lead.mean(1), exchange.lead.mean(1), seed=0)[0] == 0


def test_exchanging_a_head_is_what_a_hook_does(model, asked):
    head, n = Head(0, 2), len(asked.pairs)
    z = capture(model, asked.passages.prompts, "z")["z", 0][:, :, head.head]

    def swap(own, hook):
        changed = own.flatten(2).unflatten(2, (4, -1)).clone()
        changed[:, :, head.head] = torch.cat([z[n:], z[:n]])
        return changed.reshape(own.shape)

    with torch.inference_mode():
        logits = model.hooked.run_with_hooks(asked.passages.tokens, fwd_hooks=[("blocks.0.attn.hook_z", swap)])
    at = logits[torch.arange(2 * n), asked.passages.last].gather(1, asked.answers.repeat(2, 1))
    expected = torch.stack([(at[:, 0] - at[:, 1])[:n], (at[:, 1] - at[:, 0])[n:]], 1)
    torch.testing.assert_close(minimal_pairs.Exchange(model, asked).without([head]), expected, atol=1e-4, rtol=1e-4)


def test_the_heads_found_are_those_whose_exchange_costs_most(model, asked):
    exchange = minimal_pairs.Exchange(model, asked)
    every = [Head(layer, head) for layer in range(2) for head in range(4)]
    slow = sorted(every, key=lambda head: float(exchange.without([head]).mean()))
    assert minimal_pairs.find_heads(model, asked, 3, candidates=8) == slow[:3]


def test_random_heads_stand_in_the_same_layers(model):
    chosen = [Head(0, 1), Head(1, 3), Head(1, 0)]
    sets = passages.same_layers(chosen, model, 20, seed=1, spared=[Head(0, 0)])
    for heads in sets:
        assert [head.layer for head in heads] == [0, 1, 1] and len(set(heads)) == 3
        assert not {*heads} & {*chosen, Head(0, 0)}
    assert sets == passages.same_layers(chosen, model, 20, seed=1, spared=[Head(0, 0)])


def table_of(*rows, model="gemma3"):
    names = ("quantity", "heads", "value", "standard_error", "question", "kind")
    empty = ("", "", 0.0, 0.01, "question", "it")
    table = pd.DataFrame([dict(zip(names, (*row, *empty[len(row) :]), strict=True)) for row in rows])
    return table.assign(pairs=9, members="", model=model)


def test_what_cannot_be_otherwise_is_checked():
    rows = [("difference at it", "", 0.0), ("difference at word", "", 1.0), ("attention from it", "best", 0.0)]
    table = table_of(*rows)
    assert conclusions.at_it(table, 8).outcome == "true by construction, checked"
    assert conclusions.at_it(table.assign(value=0.0), 8).outcome == "does not hold here"  # nothing differs anywhere
    assert conclusions.at_it(table.assign(value=0.5), 8).outcome == "does not hold here"


@pytest.mark.parametrize(
    ("alone", "beyond", "outcome"),
    [(1.0, 2.0, "holds with a caveat"), (0.0, 0.1, "does not hold here"), (3.0, 0.0, "not decided")],
)
def test_knowing_is_beyond_the_word_alone(alone, beyond, outcome):
    rows = [("beyond the word alone", "", beyond)]
    rows += [(name, "", 3.0, 0.1, "question") for name in ("log-odds moved", "accuracy")]
    rows += [(name, "", alone, 0.1, "lexical") for name in ("log-odds moved", "accuracy")]
    verdict = conclusions.named(table_of(*rows), "it")
    assert verdict.outcome == outcome and "neither noun" in verdict.control  # however far the word itself moves them


@pytest.mark.parametrize(("person", "outcome"), [(0.2, "holds with a caveat"), (-0.2, "does not hold here")])
def test_attention_to_the_right_noun_is_not_that_to_a_word_which_suits(person, outcome):
    rows = [(f"attention from {at}", heads, 1.0) for at in ("word", "end") for heads in ("best", "random 0")]
    rows += [("attention from word, of a person", "best", 0.1)]
    rows += [("half of the attention less that of a person", "best", person)]
    assert conclusions.looks(table_of(*rows), 8).outcome == outcome


@pytest.mark.parametrize(
    ("moved", "random", "outcome"),
    [(1.0, 0.1, "holds with a caveat"), (1.0, 0.6, "not decided"), (0.01, 0.1, "not tested")],
)
def test_a_few_heads_carry_more_than_random_ones(moved, random, outcome):
    rows = [("log-odds moved", "", moved), ("share carried", "top 8", 0.5), ("share carried", "random 0", random)]
    rows += [("attention to the word", name, 0.1) for name in ("carriers", "random 0")]
    rows += [("attention from end", "carriers", 0.0), ("share of the word alone", "top 8", 0.5)]
    assert conclusions.few_heads(table_of(*rows), 8).outcome == outcome


def test_it_writes_table_verdicts_and_pictures(folder, model, tmp_path):
    context_fusion.main(["--models", str(folder), "--pairs", "6", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "context_fusion.csv")
    pairs = [pair for pair in minimal_pairs.read_pairs(model, DATA, 6)[0] if pair.kind == "adjective"]
    asked = minimal_pairs.ask(model, DATA, pairs, "named")
    lead = asked.lead(model, model.hidden(asked.passages.tokens))
    rows = table[(table["kind"] == "adjective") & (table["question"] == "named")].set_index("quantity")
    assert rows.loc["accuracy", "value"] == pytest.approx(float((lead > 0).float().mean()), abs=1e-4)
    assert rows.loc["log-odds moved", "value"] == pytest.approx(2 * float(lead.mean()), abs=1e-4)
    of_it = [pair for pair in minimal_pairs.read_pairs(model, DATA, 6)[0] if pair.kind == "it"]
    leads = [minimal_pairs.ask(model, DATA, of_it, form) for form in ("question", "lexical")]
    leads = [each.lead(model, model.hidden(each.passages.tokens)).sum(1).mean() for each in leads]
    beyond = table[(table["kind"] == "it") & (table["question"] == "question")].set_index("quantity")
    assert beyond.loc["beyond the word alone", "value"] == pytest.approx(float(leads[0] - leads[1]), abs=1e-4)
    assert verdicts_of(tmp_path / "context_fusion.json")[0]["outcome"] == "true by construction, checked"
    assert len(list(tmp_path.glob("context_fusion*.png"))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--models", "induction-2l"], "induction-2l has no tokenizer"),
        (["--models", "no-such-model"], "no-such-model"),
        (["--pairs", "3"], "At least 4 pairs"),
    ],
)
def test_a_mistake_is_told(given, message, folder, tmp_path, capsys):
    arguments = ["--models", str(folder), "--out", str(tmp_path / "out"), *given]
    with pytest.raises(SystemExit) as stopped:
        context_fusion.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
