import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import capture, load_model

abstraction, senses, prose = (
    script("essay.geometry.abstraction"),
    script("essay.geometry.senses"),
    script("essay.prose"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the openings and the prose."""
    said = tmp_path_factory.mktemp("abstraction") / "said.txt"
    said.write_text(" ".join((senses.DATA.read_text(), prose.TEXTS.read_text(), senses.NEUTRAL)))
    return worded_folder(said, said.parent / "words")


def test_a_row_is_identified_by_the_centroids_of_the_other_half():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(2, 12, 4, generator=generator), torch.tensor([7, 8, 9] * 4)
    half = torch.arange(12) < 6
    found = abstraction.identified(x, labels, half)
    assert 0 < found.mean() < 1
    for head in range(2):
        unit = torch.nn.functional.normalize(x[head] - x[head].mean(0), dim=-1)
        for row in range(12):
            others = {t: unit[(labels == t) & (half != half[row])].mean(0) for t in (7, 8, 9)}
            near = max(others, key=lambda t: float(torch.cosine_similarity(unit[row], others[t], dim=0)))
            assert float(found[head, row]) == float(near == labels[row])
    lonely = labels.clone()
    lonely[0] = 5
    assert (abstraction.identified(x, lonely, half)[:, 0] == 0).all()


def test_variances_are_those_that_were_put_in_and_never_below_nothing():
    generator = torch.Generator().manual_seed(0)
    word, sense, rest = (
        torch.randn(*shape, generator=generator) for shape in ((400, 1, 1, 9), (400, 2, 1, 9), (400, 2, 6, 9))
    )
    x = (2 * word + 1 * sense + 1 * rest).flatten(1, 2)[None]
    found = abstraction.variances(x)
    assert found[abstraction.BY_WORD] == pytest.approx(4 / 6, abs=0.03)
    assert found[abstraction.BY_SENSE] == pytest.approx(1 / 6, abs=0.03)
    alone = abstraction.variances(rest.flatten(1, 2)[None])
    assert all(0 <= value < 0.02 for value in alone.values())


def test_what_is_read_are_the_layers_queries_keys_and_values(folder):
    model = load_model(folder)
    tokens = torch.randint(2, model.d_vocab, (1, 6), generator=torch.Generator().manual_seed(0))
    acts = capture(model, tokens, ["resid_pre", "q", "k", "v"])
    for layer in range(model.n_layers):
        for part in ("q", "k", "v"):
            found = abstraction.made_of(model, layer, part, acts["resid_pre", layer][0])
            torch.testing.assert_close(found.transpose(0, 1), acts[part, layer][0], atol=1e-5, rtol=1e-4)
        assert abstraction.made_of(model, layer, "stream", acts["resid_pre", layer][0]).shape == (4, 6, 12)


def test_only_tokens_of_both_halves_are_read_of_the_prose(folder):
    model = load_model(folder)
    streams, tokens, half = abstraction.prose_streams(model)
    assert streams.shape == (model.n_layers, len(tokens), model.d_model)
    for token in tokens.unique():
        assert min(int((tokens[half] == token).sum()), int((tokens[~half] == token).sum())) >= abstraction.TIMES
    torch.testing.assert_close(streams[0], model.anatomy.embedding(tokens).detach())


def test_layer_0_holds_the_word_and_no_sense(folder):
    model, words = load_model(folder), senses.load_words(senses.DATA)[:4]
    read = senses.read_words(model, words).stream
    for part in ("q", "k", "v", "stream"):
        x = abstraction.made_of(model, 0, part, read[0].flatten(0, 1)).unflatten(1, (4, 12))
        found = abstraction.from_openings(x, words)
        assert found[abstraction.IDENTITY].tolist() == [1.0] * 4 and found[abstraction.SENSE].tolist() == [0.5] * 4
        assert float(found[abstraction.IDENTITY_SHUFFLED].mean()) < 0.6
        assert abstraction.variances(x)[abstraction.BY_WORD] == pytest.approx(1, abs=1e-4)


def test_it_writes_verdicts_and_a_picture(folder, tmp_path):
    abstraction.main(["--models", str(folder), "--words", "3", "--out", str(tmp_path)])
    assert (tmp_path / "abstraction.png").exists() and len(verdicts_of(tmp_path / "abstraction.json")) == 3
    abstraction.main(["--tables", str(tmp_path / "abstraction.csv"), "--out", str(tmp_path / "again")])


def test_too_few_words_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        abstraction.main(["--models", str(folder), "--words", "2", "--out", str(tmp_path)])
    assert "--words must be at least 3" in capsys.readouterr().err
