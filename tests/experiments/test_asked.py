import itertools
import re

import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import capture, load_model
from induction_lab.weights.rotary import relative_rotations

asked, topics, senses = (script(f"essay.geometry.{name}") for name in ("asked", "topics", "senses"))
LABELS = torch.tensor([True] * 3 + [False] * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the openings and the topics."""
    said = tmp_path_factory.mktemp("asked") / "said.txt"
    said.write_text(" ".join((senses.DATA.read_text(), topics.TOPICS.read_text(), senses.NEUTRAL)))
    return worded_folder(said, said.parent / "words")


def test_no_word_of_a_topic_stands_in_an_opening_or_begins_alike():
    for word, fitting in zip(*(words := senses.load_words(senses.DATA), topics.fitting_words(words)), strict=True):
        said = {each.lower() for one in word.sentences for each in re.findall(r"\w+", one)}
        keys = [one.removeprefix(f"{senses.NEUTRAL} ").lower() for one in fitting.sentences]
        assert len(set(keys)) == 12 and not said & set(keys), word.word
        alike = [(a, b) for a in said for b in keys if len(a) > 4 < len(b) and a[:5] == b[:5]]
        assert not alike


def test_the_scores_are_those_of_attention(folder):
    model = load_model(folder)
    tokens = torch.randint(2, model.d_vocab, (1, 9), generator=torch.Generator().manual_seed(0))
    acts = capture(model, tokens, ["resid_pre", "attn_scores"])
    for layer, (query, key) in itertools.product(range(model.n_layers), ((7, 2), (4, 3))):
        stream = acts["resid_pre", layer]
        turn = relative_rotations(model, [query - key])[layer, 0]
        found = asked.scores(model, layer, turn, stream[:, [query]], stream[:, [key]])[:, 0, 0, 0]
        torch.testing.assert_close(found, acts["attn_scores", layer][0, :, query, key], atol=1e-5, rtol=1e-4)


def test_gains_and_pairs_are_written_out_and_heads_are_chosen_on_other_words():
    values = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(0))
    lean = topics.leans(values, LABELS)
    for word in range(5):
        fits = [values[word, i, j] for i in range(6) for j in range(6) if LABELS[i] == LABELS[j]]
        others = [values[word, i, j] for i in range(6) for j in range(6) if LABELS[i] != LABELS[j]]
        gain = float(torch.stack(fits).mean() - torch.stack(others).mean())
        assert float(topics.gains(lean, LABELS)[word]) == pytest.approx(gain, abs=1e-6)
        pairs = [float(lean[word, i] > lean[word, j]) for i in range(3) for j in range(3, 6)]
        assert float(topics.right(lean, LABELS)[word]) == pytest.approx(sum(pairs) / 9)
    assert topics.right(torch.zeros(6), LABELS) == 0.5
    parts = torch.tensor([[1.0, 0.0, 1.1, 0.1], [0.0, 1.0, 0.1, 1.1], [-9.0, -9.0, -9.1, -9.1]])
    assert topics.best_elsewhere(parts, 1)[:, 0].tolist() == [1, 0, 1, 0]  # never on the word itself
    words = senses.load_words(senses.DATA)[:4]
    shuffled = topics.evenly_shuffled(words, 0)
    assert (shuffled[:, :6].sum(1) == 3).all() and (shuffled[:, 6:].sum(1) == 3).all()


def test_layer_0_knows_no_sense_and_a_queried_topic_is_found(folder):
    model, words = load_model(folder), senses.load_words(senses.DATA)[:4]
    rows = asked.measured(model, words)
    first = [row for row in rows if row["place"] == asked.AT and row["layer"] == 0]
    assert max(abs(row["nats"]) for row in first) < 1e-5 and {row["right"] for row in first} == {0.5}
    assert {row["word"] for row in rows} == {"apple", "bank", "bat", "spring"}
    lean = torch.zeros(3, 4, 12)
    lean[1] = torch.where(words[0].labels, 1.0, -1.0)
    chosen = topics.best_elsewhere(topics.gains(lean, words[0].labels), 1)
    assert topics.right(asked.heads_of_words(lean, chosen), words[0].labels).tolist() == [1.0] * 4


def test_another_noun_stands_in_the_words_place():
    words = senses.load_words(senses.DATA)[:3]
    other = topics.exchanged(words)
    assert other[0].sentences[0].endswith("thin slices of bank") and other[2].sentences[0].endswith("hung the apple")


def test_it_writes_verdicts_and_a_picture(folder, tmp_path):
    asked.main(["--models", str(folder), "--words", "4", "--out", str(tmp_path)])
    assert (tmp_path / "asked.png").exists() and len(verdicts_of(tmp_path / "asked.json")) == 3
    asked.main(["--tables", str(tmp_path / "asked.csv"), "--out", str(tmp_path / "again")])


def test_too_few_words_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        asked.main(["--models", str(folder), "--words", "3", "--out", str(tmp_path)])
    assert "--words must be at least 4" in capsys.readouterr().err
