import numpy as np
import pandas as pd
import pytest
import torch
from families import random_network
from scripts import script, verdicts_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from induction_lab import attention_spread, load_model

MARKED = """
[[text]]
title = "One"
body = "She lives in [San Francisco Bay]. The capital of France is {Paris}. It rained, so she got <wet>. San Francisco."
"""


@pytest.fixture(scope="module")
def prose():
    return script("essay.prose")


@pytest.fixture(scope="module")
def layers():
    return script("essay.layers.experiment")


@pytest.fixture(scope="module")
def reader(prose, tmp_path_factory):
    """A random model with a byte-pair tokenizer learnt from the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<0>", "<1>", "<2>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([passage.text for passage in prose.read_prose()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<1>", pad_token="<0>", eos_token="<2>")
    folder = tmp_path_factory.mktemp("reader")
    fast.save_pretrained(folder)
    random_network("llama").save_pretrained(folder)
    return load_model(str(folder))


def test_marks_say_which_words_are_of_which_kind(prose, tmp_path):
    (tmp_path / "one.toml").write_text(MARKED)
    (one,) = prose.read_prose(tmp_path / "one.toml")
    assert not set(one.text) & set("[]{}<>")
    marked = {one.text[start:].split()[0].strip("."): kind for start, kind in one.marked.items()}
    expected = {"Francisco": prose.PHRASE, "Bay": prose.PHRASE}
    assert marked == expected | {"Paris": prose.FACT, "wet": prose.INFERENCE}


def test_the_texts_hold_enough_of_every_kind(prose):
    found = prose.read_prose()
    assert len(found) >= 10 and all(1 < len(passage.text.split()) < 200 for passage in found)
    count = pd.Series([kind for passage in found for kind in passage.marked.values()]).value_counts()
    assert count[prose.PHRASE] > 60 and count[prose.FACT] >= 30 and count[prose.INFERENCE] >= 30


def test_every_token_has_the_kind_that_a_reader_would_give_it(prose, reader, tmp_path):
    (tmp_path / "one.toml").write_text(MARKED)
    found = prose.read_prose(tmp_path / "one.toml")
    prompts, kinds = prose.as_tokens(reader, found)
    text, seen, pairs = "", [], set()
    tokens = prompts.tokens[0].tolist()
    for query in range(len(tokens) - 1):
        piece = reader.tokenizer.decode([tokens[query + 1]])
        kind = prose.KINDS[kinds[0, query]] if kinds[0, query] != prose.NONE else None
        seen.append((text, piece, kind))
        if kind == prose.INSIDE:
            assert text[-1].isalpha() and piece[0].isalpha()
        if kind in (prose.OTHER, prose.PHRASE, prose.FACT, prose.INFERENCE):
            assert not text or not text[-1].isalpha() or piece[0] == " "
        text += piece
        pairs.add((tokens[query], tokens[query + 1]))
    assert text == found[0].text and kinds[0, -1] == prose.NONE
    assert [piece for before, piece, kind in seen if before.endswith("It rained, so she got")][0].startswith(" ")
    assert {kind for before, _, kind in seen if before.endswith("France is")} == {prose.FACT}
    assert {kind for before, _, kind in seen if before.endswith("so she got")} == {prose.INFERENCE}
    assert prose.REPEAT in {kind for before, _, kind in seen if len(before) > 95}


@pytest.mark.parametrize(
    ("body", "message"),
    [("A [b c", "not closed"), ("A {b [c]}", "opens inside"), ("A b]", "closes none")],
)
def test_marks_that_do_not_fit_are_refused(prose, body, message, tmp_path):
    (tmp_path / "bad.toml").write_text(f'[[text]]\ntitle = "Bad"\nbody = "{body}"\n')
    with pytest.raises(SystemExit, match=message):
        prose.read_prose(tmp_path / "bad.toml")


def test_a_file_that_is_not_there_and_a_model_that_reads_no_text_are_refused(layers, prose, tmp_path, capsys):
    with pytest.raises(SystemExit, match="holds no passages"):
        prose.read_prose(tmp_path / "none.toml")
    with pytest.raises(SystemExit):
        layers.main(["--models", "induction-2l", "--out", str(tmp_path)])
    assert "has no tokenizer" in capsys.readouterr().err


def test_the_lens_is_ridge_written_out_and_fitted_on_other_passages():
    lens = script("essay.layers.lens")
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(2, 4, 9, 3, generator=generator)
    stream[1] = stream[0] + 0.5 * stream[0].roll(1, -1) + 0.1 * torch.randn(4, 9, 3, generator=generator) + 2
    there = torch.ones(4, 9, dtype=torch.bool)
    there[:, 0] = False
    there[3, 7:] = False
    found = lens.foretold(stream, there)
    assert torch.equal(found[1], stream[1])
    x = torch.cat([stream[0, 1, 1:], stream[0, 3, 1:7]])  # what passages 0 and 2 are read by
    rest = torch.cat([stream[1, 1, 1:], stream[1, 3, 1:7]]) - x
    rows = ((x - x.mean(0)) / x.std(0)).double()
    inverse = torch.linalg.inv(rows.T @ rows + lens.PENALTY * 14 * torch.eye(3, dtype=torch.double))
    weights = (inverse @ rows.T @ (rest - rest.mean(0)).double()).float()
    slow = stream[0, 2, 4] + ((stream[0, 2, 4] - x.mean(0)) / x.std(0)) @ weights + rest.mean(0)
    torch.testing.assert_close(found[0, 2, 4], slow, atol=1e-5, rtol=1e-4)
    before, after = ((each[0] - stream[1])[there].square().mean() for each in (stream, found))
    assert after < 0.2 * before


def test_a_token_settles_where_its_rank_stays_low():
    settles = script("essay.layers.settling").settles
    rank = np.array([[0, 50, 50, 0, 3], [0, 9, 50, 99, 3], [5, 10, 50, 0, 3], [10, 2, 11, 0, 90]])
    by_hand = []
    for column in rank.T:
        good = [all(column[i:] <= 10) for i in range(len(column))]
        by_hand.append(good.index(True) - 1 if any(good) else -2)
    assert settles(rank).tolist() == by_hand == [-1, 0, -2, 1, -2]


def test_means_and_differences_are_those_of_the_tokens_themselves():
    module = script("essay.layers.settling")
    rng = np.random.default_rng(0)
    text, kind, third = rng.integers(0, 4, 300), rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    layer = rng.integers(-1, 9, 300) + 3 * (kind == 1)
    tokens = module.Tokens(text, kind, layer, third)
    made = module.sums(tokens, 4)
    mean = module.means(made.sum(1))
    assert mean[1] == pytest.approx(layer[kind == 1].mean()) and np.isnan(mean[5])
    expected = 0.0
    for own in range(3):
        low, high = layer[(kind == 0) & (third == own)], layer[(kind == 1) & (third == own)]
        expected += (high.mean() - low.mean()) * len(low) / (kind == 0).sum()
    assert module.alike(made.sum(1), 0, 1) == pytest.approx(expected)
    draws = module.means(module.resampled(made, rng))[:, 1]
    by_hand = []
    for _ in range(2000):
        drawn = rng.integers(0, 4, 4)
        some = np.concatenate([layer[(kind == 1) & (text == each)] for each in drawn])
        by_hand.append(some.mean())
    assert draws.std() == pytest.approx(np.std(by_hand), rel=0.1)
    chance = module.shuffled(tokens, 0, 1, 4, rng)
    assert abs(chance.mean()) < 0.15 and mean[1] - mean[0] > np.quantile(chance, 0.975)


def test_main_writes_what_the_library_says_verdicts_and_a_picture(layers, prose, reader, monkeypatch, tmp_path):
    monkeypatch.setattr(script("essay.of_models"), "reading_model", lambda parser, name: reader)
    monkeypatch.setattr(script("essay.layers.settling"), "DRAWS", 40)
    monkeypatch.setattr(layers, "DRAWS", 40)
    monkeypatch.setattr(layers, "MOST", 12)
    layers.main(["--models", "reader", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"layers.csv", "layers.json", "layers.png"}
    table = pd.read_csv(tmp_path / "layers.csv")
    prompts, kinds = prose.as_tokens(reader, prose.read_prose())
    spread = attention_spread(reader, prompts).set_index(["label", "quantity"])
    own = table[(table["layer"] == 1) & (table["head"] == 2) & (table["quantity"] == "first")]
    assert own["value"].iloc[0] == pytest.approx(spread.loc[("L1H2", "first"), "value"], abs=1e-4)
    at = layers.chosen(kinds, 0)
    assert np.bincount(kinds[at[:, 0], at[:, 1]]).max() == 12 and len({tuple(each) for each in at}) == len(at)
    log_p = reader.logits(prompts.tokens).log_softmax(-1)
    last = [float(log_p[i, t, prompts.tokens[i, t + 1]]) for i, t in at]
    lens = table[(table["part"] == "lens") & (table["layer"] == 1)].set_index("quantity")["value"]
    assert lens["fitted lens"] == pytest.approx(np.mean(last), abs=1e-3)
    assert lens["logit lens"] == pytest.approx(np.mean(last[::8]), abs=1e-3)
    found = verdicts_of(tmp_path / "layers.json")
    assert [verdict["source"] for verdict in found] == ["essay §4"] * 6
    assert found[0]["outcome"] == "not tested"  # a random model has no such heads
    layers.main(["--tables", str(tmp_path / "layers.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "layers.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


def test_verdicts_on_heads_and_on_kinds_can_come_out_either_way(layers, prose):
    rng = np.random.default_rng(0)
    at = {"previous_token": 2, "duplicate_token": 3, "prefix_matching": 16, "resting": 10}
    rows = [
        {"part": "head", "quantity": name, "layer": layer + int(rng.integers(3)), "head": head, "value": 0.8}
        for name, layer in at.items()
        for head in range(4)
    ]
    rows += [
        {"part": "head", "quantity": name, "layer": layer, "head": 0, "value": layer * sign}
        for name, sign in (("distance_past_first", 1.0), ("first", 0.01))
        for layer in range(20)
    ]
    settle = {prose.INSIDE: 3, prose.PHRASE: 4, prose.FACT: 9, prose.INFERENCE: 14, prose.OTHER: 12}
    rows += [
        {"part": "token", "kind": kind, "text": text, "layer": layer + int(rng.integers(2)), "third": i % 3}
        for kind, layer in settle.items()
        for text in range(8)
        for i in range(6)
    ]
    rows += [{"part": "lens", "quantity": f"{name} lens", "layer": 0, "value": -5.0} for name in ("fitted", "logit")]
    one = pd.DataFrame(rows).assign(model="smollm2-135m", n_layers=20, n_texts=8)
    table = pd.concat([one, one.assign(model="gemma3-270m")], ignore_index=True)
    tests = (layers.below_induction, layers.are_shallow, layers.reach, layers.form_is_low, layers.phrases_are_shallow,
             layers.form_facts_logic)  # fmt: skip
    assert [test(table).outcome for test in tests] == ["holds"] * 6
    turned = table.assign(layer=19 - table["layer"])
    assert [test(turned).outcome for test in tests] == ["does not hold here"] * 6
