import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import load_model

towards, topics, senses = (script(f"essay.geometry.{name}") for name in ("towards", "topics", "senses"))
LABELS = torch.tensor([True] * 4 + [False] * 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the openings and the topics."""
    said = tmp_path_factory.mktemp("towards") / "said.txt"
    said.write_text(" ".join((senses.DATA.read_text(), topics.TOPICS.read_text(), senses.NEUTRAL)))
    return worded_folder(said, said.parent / "words")


def cosine(x, y):
    return float(torch.dot(x, y) / x.norm() / y.norm())


def test_cosines_are_between_each_opening_and_each_word():
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5)
    found = towards.cosines(x, y)
    assert float(found[1, 2, 3, 4]) == pytest.approx(cosine(x[1, 2, 3], y[1, 2, 4]), abs=1e-6)
    assert float(towards.cosines(x, y[0])[1, 2, 3, 4]) == pytest.approx(cosine(x[1, 2, 3], y[0, 2, 4]), abs=1e-6)


def test_ways_are_differences_of_means_of_half_of_the_openings():
    generator = torch.Generator().manual_seed(0)
    stream, toward = torch.randn(3, 8, 5, generator=generator), torch.randn(3, 5, generator=generator)
    found = towards.ways(stream, toward, LABELS)
    one = (stream[1, 0] + stream[1, 2]) / 2 - (stream[1, 4] + stream[1, 6]) / 2
    two = (stream[1, 1] + stream[1, 3]) / 2 - (stream[1, 5] + stream[1, 7]) / 2
    assert float(found[towards.ITSELF][1]) == pytest.approx(cosine(one, two), abs=1e-6)
    for name, way in ((towards.WAY, toward[1]), (towards.OTHER_WAY, toward[2])):
        assert float(found[name][1]) == pytest.approx((cosine(one, way) + cosine(two, way)) / 2, abs=1e-6)


def test_what_heads_and_mlps_push_adds_up_to_the_way_between_the_senses(folder):
    model, words = load_model(folder), senses.load_words(senses.DATA)[:4]
    read, labels = senses.read_words(model, words), words[0].labels
    toward = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(0))
    found = towards.pushes(model, read, toward, 2, labels)
    for word in range(4):
        between = (read.stream[2, word, labels].mean(0) - read.stream[2, word, ~labels].mean(0)) / 2
        whole = float(between @ toward[word] / toward[word].norm())
        assert float(found[towards.PUSHED][word] + found[towards.MLPS][word]) == pytest.approx(whole, abs=1e-4)
    assert set((found[towards.HEADS] * 8).tolist()) <= set(range(9))  # of 2 layers' 8 heads


def test_the_embedding_is_pulled_nowhere_and_it_writes_verdicts_and_a_picture(folder, tmp_path):
    rows = towards.measured(load_model(folder), senses.load_words(senses.DATA)[:4])
    first = [row for row in rows if row["place"] == towards.AT and row["layer"] == 0]
    assert (
        len(first) == 4 and max(abs(row["gain"]) for row in first) < 1e-6 and {row["right"] for row in first} == {0.5}
    )
    towards.main(["--models", str(folder), "--words", "4", "--out", str(tmp_path)])
    assert (tmp_path / "towards.png").exists() and len(verdicts_of(tmp_path / "towards.json")) == 4
    towards.main(["--tables", str(tmp_path / "towards.csv"), "--out", str(tmp_path / "again")])


def test_too_few_words_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        towards.main(["--models", str(folder), "--words", "3", "--out", str(tmp_path)])
    assert "--words must be at least 4" in capsys.readouterr().err
