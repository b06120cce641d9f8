import pandas as pd
import pytest
import torch
import transformers as hf
from families import random_network, shake_norms
from scripts import script, verdicts_of
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments.essay.geometry.separation import centroid_accuracy, even_splits, pair_cosines, pulls, shuffles
from induction_lab import HookedModel, capture, load_model

DATA = """
[[words]]
word = "{word}"
senses = ["one", "two"]
first = [{first}]
second = [{second}]
"""


@pytest.fixture(scope="module")
def module():
    return script("essay.geometry.experiment")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A random model that reads words, `w0` to `w299`, from a folder: TransformerLens loads its tokenizer again."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}" if i != 1 else "<s>": i for i in range(300)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("reader")
    random_network("llama").save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return load_model(str(folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four words; the sense is said by a word of a set of its own, some places before."""
    generator = torch.Generator().manual_seed(0)

    def sentence(word, sense):
        clue, *rest = torch.randint(0, 60, (4,), generator=generator).tolist()
        said = [f"w{100 + 60 * sense + clue}", *(f"w{30 + r}" for r in rest[: 1 + clue % 3])]
        return f'"{" ".join(said)} w9 {word}"'

    text = ""
    for word in ("w11", "w12", "w13", "w14"):
        parts = {name: ", ".join(sentence(word, i) for _ in range(4)) for i, name in enumerate(("first", "second"))}
        text += DATA.format(word=word, **parts)
    path = tmp_path_factory.mktemp("data") / "senses.toml"
    path.write_text(text)
    return path


LABELS = torch.tensor([True] * 4 + [False] * 4)


def cosine(x, y):
    return float(torch.dot(x, y) / x.norm() / y.norm())


def test_accuracy_is_that_of_centroids_made_without_the_sentence():
    x = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1)) + LABELS[:, None] * 0.5
    labels = torch.cat([LABELS[None], shuffles(LABELS, 3)])
    fast = centroid_accuracy(x, labels)
    assert fast.shape == (4, 3) and len(set(fast.flatten().tolist())) > 3
    for j, y in enumerate(labels):
        for layer in range(3):
            right = 0
            for i in range(8):
                others = [k for k in range(8) if k != i]
                near = [cosine(x[layer, i], torch.stack([x[layer, k] for k in others if y[k] == s]).mean(0)) for s in y]
                own = near[i]
                other = next(c for c, s in zip(near, y, strict=True) if s != y[i])
                right += own > other
            assert float(fast[j, layer]) == pytest.approx(right / 8, abs=1e-6)


def test_vectors_that_are_alike_separate_by_chance_and_clusters_wholly():
    alike = torch.ones(8, 5)
    assert float(centroid_accuracy(alike, LABELS[None])[0]) == 0.5
    apart = torch.eye(5)[LABELS.long()] + 0.01 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert float(centroid_accuracy(apart, LABELS[None])[0]) == 1.0
    noise = torch.randn(400, 8, 20, generator=torch.Generator().manual_seed(0))
    assert 0.4 < float(centroid_accuracy(noise, LABELS[None]).mean()) <= 0.5  # nothing is fitted


def test_pair_cosines_are_means_over_pairs():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    pairs = [(i, j) for i in range(8) for j in range(i)]
    same, other = pair_cosines(x, LABELS)
    for value, wanted in ((same, True), (other, False)):
        slow = [cosine(x[i], x[j]) for i, j in pairs if bool(LABELS[i] == LABELS[j]) == wanted]
        assert float(value) == pytest.approx(sum(slow) / len(slow), abs=1e-5)


def test_pulls_are_written_out_and_add_up():
    generator = torch.Generator().manual_seed(2)
    parts = torch.randn(3, 8, 6, generator=generator)
    parts[1, :4, 0] += 20  # one part knows the sense
    stream = parts.sum(0)
    found = pulls(parts, stream, LABELS)
    assert float(found.sum()) == pytest.approx(float(pulls(stream[None], stream, LABELS)), abs=1e-4)
    for part in range(3):
        total = 0.0
        for i in range(8):
            sides = [[k for k in range(8) if k != i and bool(LABELS[k]) == s] for s in (True, False)]
            first, second = (stream[side].mean(0) for side in sides)
            middle = (parts[part, sides[0]].mean(0) + parts[part, sides[1]].mean(0)) / 2
            along = torch.dot(parts[part, i] - middle, first - second) / (first - second).norm()
            total += float(along) * (1 if LABELS[i] else -1)
        assert float(found[part]) == pytest.approx(total / 8, abs=1e-4)
    assert found[1] > 5 > 2 > found[[0, 2]].abs().max()
    noise = [pulls(torch.randn(1, 8, 50, generator=generator), torch.randn(8, 50), LABELS) for _ in range(100)]
    assert abs(float(torch.stack(noise).mean())) < 0.3


def test_halves_are_all_there_once_and_bad_numbers_are_refused():
    assert even_splits(4).tolist() == [
        [True, True, False, False],
        [True, False, True, False],
        [True, False, False, True],
    ]
    with pytest.raises(ValueError, match="even number"):
        even_splits(5)
    with pytest.raises(ValueError, match="at least 2"):
        centroid_accuracy(torch.randn(4, 3), torch.tensor([[True, False, False, False]]))


def test_words_are_read_at_their_last_token_whatever_the_length(module, reader, data):
    words = module.load_words(data)
    read = module.read_words(reader, words)
    assert read.stream.shape == (3, 4, 8, 48) and read.z.shape == (2, 4, 8, 4, 12)
    for i, j in ((0, 0), (2, 5), (3, 7)):
        tokens = torch.tensor([[1, *(int(word[1:]) for word in words[i].sentences[j].split())]])
        acts = capture(reader, tokens, ["embed", "resid_pre", "resid_post", "result"])
        torch.testing.assert_close(read.stream[1, i, j], acts["resid_pre", 1][0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read.stream[2, i, j], acts["resid_post", 1][0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read.before[1, i, j], acts["resid_pre", 1][0, -2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read.static[i], acts["embed"][0, -1])
        heads = module.head_outputs(reader, read.z[:, i])
        torch.testing.assert_close(heads[4 + 2, j], acts["result", 1][0, -1, 2], atol=1e-4, rtol=1e-4)
    neutral = capture(reader, torch.tensor([[1, 0, 0, 0, 0, 12]]), "resid_pre", layers=1)["resid_pre", 1]
    torch.testing.assert_close(read.neutral[1, 1], neutral[0, -1], atol=1e-4, rtol=1e-4)


def test_the_static_embedding_separates_nothing_and_heads_account_for_the_way(module, reader, data):
    words = module.load_words(data)
    read = module.read_words(reader, words)
    layers = module.accuracies(read, words, 0)
    assert module.at(layers, 0, "accuracy")[0] == 0.5
    angles = module.angles(read, words)
    assert module.at(angles, 0, "angle to static embedding")[0] < 0.1
    assert module.at(angles, 1, "angle to static embedding")[0] > 5
    parts = module.heads_that_pull(reader, read, words, 2, 0)[1].set_index("quantity")["value"]
    whole = [
        float(pulls(read.stream[2, i][None], read.stream[2, i], LABELS)[0])
        / float((read.stream[2, i][:4].mean(0) - read.stream[2, i][4:].mean(0)).norm())
        for i in range(4)
    ]
    assert parts["whole"] == pytest.approx(sum(whole) / 4, abs=1e-4)
    assert parts["heads"] + parts["MLPs"] == pytest.approx(1, abs=1e-3)


def test_geometry_writes_a_table_verdicts_and_pictures(module, reader, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DATA", data)
    monkeypatch.setattr(script("essay.of_models"), "reading_model", lambda parser, name: reader)
    module.main(["--models", "reader", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "geometry.csv", "geometry.json", "geometry.png", "geometry_paths.png",
    }  # fmt: skip
    found = verdicts_of(tmp_path / "geometry.json")
    assert len(found) == 3
    table = pd.read_csv(tmp_path / "geometry.csv")
    words = table[table["part"] == module.WORDS]
    assert list(words["word"]) == ["w11", "w12", "w13", "w14"] and words["p"].between(0, 1).all()
    module.main(["--tables", str(tmp_path / "geometry.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "geometry.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


def test_ways_lie_in_the_plane_of_most_variance(module, reader, data):
    words = module.load_words(data)[:3]
    read = module.read_words(reader, words)
    rows = pd.DataFrame(module.ways(read, words))
    assert len(rows) == 3 * 3 * 8 and set(rows["sense"]) == {"one", "two"}
    x = module.centred(read.stream, (1, 2))
    x = (x / x.norm(dim=-1).mean((1, 2))[:, None, None, None])[:, 1].flatten(0, 1)
    spread = (x - x.mean(0)).square().sum()
    own = rows[rows["word"] == "w12"]
    for axis in "xy":
        variance = float((own[axis] ** 2).sum() / spread)
        assert variance == pytest.approx(own["variance_1" if axis == "x" else "variance_2"].iloc[0], rel=1e-3)


def test_senses_planted_in_the_stream_separate_and_noise_does_not(module, reader, data):
    words = module.load_words(data)
    read = module.read_words(reader, words)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 4, 8, 48, generator=generator)
    none = read._replace(stream=noise)
    assert module.separations(none, words, 0)["separates"].mean() <= 0.5
    planted = noise.clone()
    planted[1, :, :4, 0] += 8
    found = module.separations(read._replace(stream=planted), words, 0)
    assert (found["accuracy"] == 1).all() and (found["best_layer"] == 1).all()
    assert found["p"].max() < 0.1  # of 35 ways to halve eight sentences one is right


def test_the_words_of_the_project_end_alike_in_both_senses(module):
    words = module.load_words(module.DATA)
    assert len(words) >= 30 and all(len(word.sentences) == 12 for word in words)
    for word in words:
        assert len({sentence.split()[-2] for sentence in word.sentences}) == 1, word.word
        assert all(sentence.lower().split().count(word.word) == 1 for sentence in word.sentences), word.word


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "no file of words"), (DATA.format(word="a", first='"b a"', second='"c a"'), "even number"),
     (DATA.format(word="a", first='"b"', second='"c a"'), "must end in its word")],
)  # fmt: skip
def test_a_file_that_holds_no_words_is_told(module, tmp_path, text, message):
    path = tmp_path / "words.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        module.load_words(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--models", "induction-2l"], "no tokenizer"), (["--words", "2"], "--words must be at least")],
)
def test_a_users_mistakes_are_told(module, given, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        module.main([*given, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


@torch.no_grad()
def test_heads_whose_sum_is_normalised_add_up_to_what_enters_the_stream(module):
    model = HookedModel(shake_norms(random_network("gemma3")))
    tokens, seen = torch.arange(5, 25).view(4, 5), []
    hooks = []
    z = capture(model, tokens, "z", layers=[0, 1])
    for layer in range(2):
        norm = model.anatomy.norm_after(layer)
        hooks.append(norm.register_forward_hook(lambda _, __, output: seen.append(output[:, -1])))
    model.hidden(tokens)
    for hook in hooks:
        hook.remove()
    heads = module.head_outputs(model, torch.stack([z["z", layer][:, -1] for layer in range(2)]))
    for layer in range(2):
        torch.testing.assert_close(heads[4 * layer : 4 * layer + 4].sum(0), seen[layer], atol=1e-5, rtol=1e-4)
