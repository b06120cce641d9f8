import pandas as pd
import pytest
import torch
import transformers as hf
from families import LLAMA_LIKE
from scripts import script, verdicts_of
from worded import tokenizer_of

from induction_lab import Head, capture, load_model

between, two = script("essay.distance.prose_between"), script("essay.harry_potter.two_names")
names, prose = script("essay.harry_potter.names"), script("essay.prose")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the names, the passages and the prose."""
    folder = tmp_path_factory.mktemp("prose") / "words"
    tokenizer = tokenizer_of(*(path.read_text() for path in (names.NAMES, two.NAMESAKES, prose.TEXTS)))
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "head_dim": 12, "bos_token_id": 0, "max_position_embeddings": 512}
    network = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**{**LLAMA_LIKE, **sizes}), dtype=torch.float32)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_prose_names_nobody_who_is_asked_for(folder):
    said = " ".join(passage.text for passage in prose.read_prose())
    words = set(said.split())
    for scene in between.read_data(two.NAMESAKES)["scene"]:
        assert not words & set(scene["made_up"][:2])


def test_the_texts_differ_in_where_the_prose_stands_and_in_the_name(folder):
    model = load_model(folder)
    far, near, stranger = (between.text(model, ("Rosa", "Holland"), 1, 64, place)
                           for place in (between.BETWEEN, between.BEFORE, between.STRANGER))  # fmt: skip
    assert sorted(far.split()) == sorted(near.split())
    assert stranger == far.replace("Rosa <name|Holland>", "<name|a stranger>")
    filler = between.some_prose(model, 64, 1)
    assert 64 <= between.n_tokens(model, filler) < 128 and filler in far and near.startswith(filler)
    assert far.endswith("Rosa") and near.endswith("Rosa")


def test_what_is_read_is_the_networks(folder):
    model = load_model(folder)
    texts = [between.text(model, ("Rosa", "Holland"), n, 64, between.BETWEEN) for n in (0, 1)]
    passages, heads = between.read_passages(model, texts), [Head(0, 1), Head(1, 3)]
    answer = between.first_token(model, "Holland")
    logs, looks = between.read(model, passages, [answer, answer], heads)
    for row in (0, 1):
        end, key = int(passages.last[row]), int(passages.marks["name"][row, 0])
        tokens = passages.tokens[row : row + 1, : end + 1]
        assert int(tokens[0, key]) == answer
        with torch.inference_mode():
            direct = model.network(tokens).logits[0, -1].log_softmax(-1)
        assert float(logs[row]) == pytest.approx(float(direct[answer]), abs=1e-4)
        patterns = capture(model, tokens, "pattern")
        wanted = sum(float(patterns["pattern", head.layer][0, head.head, end, key]) for head in heads) / 2
        assert float(looks[row]) == pytest.approx(wanted, abs=1e-5)


def test_it_writes_every_name_verdicts_and_a_picture(folder, tmp_path):
    between.main(["--models", str(folder), "--names", "3", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "prose_between.csv")
    assert set(table["gap"]) == {0, 64, 256}  # what the context of this model holds
    assert len(table) == 3 * (2 + 3 + 3) and (tmp_path / "prose_between.png").exists()
    assert len(verdicts_of(tmp_path / "prose_between.json")) == 2
    between.main(["--tables", str(tmp_path / "prose_between.csv"), "--out", str(tmp_path / "again")])


def test_too_few_names_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        between.main(["--models", str(folder), "--names", "2", "--out", str(tmp_path)])
    assert "--names must be at least 3" in capsys.readouterr().err
