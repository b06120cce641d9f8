import re

import numpy as np
import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import Head, capture, load_model

namesakes, two = script("essay.harry_potter.namesakes"), script("essay.harry_potter.two_names")
judging = script("judging")
DATA = script("essay.passages").read_data(two.NAMESAKES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(two.NAMESAKES, tmp_path_factory.mktemp("namesakes") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def texts(model):
    return two.write_texts(model, DATA, "made_up", two.PLAIN, [0, 5], every=False, seed=0)


@pytest.fixture(scope="module")
def exchange(model, texts):
    return two.Exchange(model, texts)


def test_a_sentence_on_a_role_names_neither_role_nor_name_and_says_nothing_of_the_rest_of_the_text():
    common = set(re.findall(r"\w+", " ".join(DATA["mentions"] + DATA["introductions"] + DATA["endings"]).lower()))
    small = set("a the and was in on at by of for to came from next had were an one two up it out with who".split())
    assert len(DATA["scene"]) >= 24
    for scene in DATA["scene"]:
        names = {*scene["famous"], *scene["made_up"], scene["own"][0], scene["other"][0]}
        told = [set(re.findall(r"\w+", scene[which][1].lower())) for which in ("own", "other")]
        assert not (told[0] | told[1]) & ({name.lower() for name in names} | (common - small))
        assert not told[0] & told[1] - small
        assert len({*scene["famous"]}) == len({*scene["made_up"]}) == 3


def test_the_factors_stand_in_all_combinations_and_are_read_off_the_text(model):
    texts = two.write_texts(model, DATA, "famous", two.PLAIN, [0], every=True, seed=0)
    columns = np.array([texts.factors[name] for name in two.FACTORS])
    assert np.array_equal(columns @ columns.T, 16 * np.eye(len(two.FACTORS)))
    for row in range(16):
        words = " ".join(model.tokenizer.convert_ids_to_tokens(texts.passages.tokens[row].tolist()))
        wizard = re.search(r"wizard Harry (\w+)", words)
        assert wizard is not None and (wizard[1] == "Potter") == (texts.factors["role"][row] > 0)
        spells = "spell" in words
        assert (spells == (wizard[1] == "Potter")) == (texts.factors["topic"][row] > 0)
        last = re.findall(r"Harry (Potter|Snow)", words)
        assert (last[-1] == "Potter") == (texts.factors["last"][row] > 0)
        assert (last.count("Potter") == 2) == (texts.factors["often"][row] > 0)
        assert words.replace(" [BOS]", "").endswith("Harry")
    half = two.write_texts(model, DATA, "famous", two.PLAIN, [0], every=False, seed=0)
    columns = np.array([half.factors[name] for name in two.FACTORS])
    assert np.array_equal(columns @ columns.T, 8 * np.eye(len(two.FACTORS)))


def test_scrambled_words_are_the_same_words():
    told = DATA["scene"][4]["own"][1]
    mixed = two.scrambled(told, 3)
    assert mixed != told and sorted(mixed.lower().strip(".").split()) == sorted(re.findall(r"\w+", told.lower()))


def test_coefficients_are_those_that_made_the_log_odds(model):
    texts = two.write_texts(model, DATA, "made_up", two.PLAIN, [0], every=True, seed=0)
    weights = dict(zip(two.FACTORS[:3], (1.0, -0.5, 0.25), strict=True))
    odds = [0.3 + sum(weight * texts.factors[name][i] for name, weight in weights.items()) for i in range(16)]
    found = two.coefficients(odds, texts.factors)
    wanted = {"constant": 0.3, "topic": 2.0, "last": -1.0, "often": 0.5, "sentence": 0.0, "role": 0.0}
    assert found == pytest.approx(wanted, abs=1e-12)
    assert texts.contrast(torch.tensor(odds)) == pytest.approx([2.0])


def test_the_log_odds_are_those_of_the_network(model, texts, exchange):
    for row in (0, 9):
        end = int(texts.passages.last[row])
        with torch.inference_mode():
            logits = model.network(texts.passages.tokens[row : row + 1, : end + 1]).logits[0, -1].log_softmax(-1)
        name, other = texts.answers[row]
        assert float(exchange.clean[row]) == pytest.approx(float(logits[name] - logits[other]), abs=1e-4)


def test_the_partner_has_the_other_sentence_alone_and_the_whole_stream_turns_the_effect_round(model, texts, exchange):
    for row, other in enumerate(exchange.partner.tolist()):
        differs = [name for name in two.FACTORS if texts.factors[name][row] != texts.factors[name][other]]
        assert differs == ["topic", "sentence"] and texts.scene[row] == texts.scene[other]
    torch.testing.assert_close(exchange.stream(model.n_layers), exchange.clean[exchange.partner])
    torch.testing.assert_close(exchange.stream(0), exchange.clean, atol=1e-4, rtol=0)  # the same first name


def test_queries_from_the_other_text_are_those_that_its_projection_gives(model, texts, exchange):
    heads = [Head(0, 1), Head(1, 0), Head(1, 2)]
    tokens, last = texts.passages.tokens, texts.passages.last
    queries = capture(model, texts.passages.prompts, "q")

    def take_over(layer):
        def hook(module, args, output):
            output = output.unflatten(-1, (model.n_heads, -1)).clone()
            for row, other in enumerate(exchange.partner.tolist()):
                for head in (head.head for head in heads if head.layer == layer):
                    output[row, last[row], head] = queries["q", layer][other, last[other], head]
            return output.flatten(-2)

        return hook

    blocks = model.network.model.layers
    hooks = [block.self_attn.q_proj.register_forward_hook(take_over(layer)) for layer, block in enumerate(blocks)]
    try:
        with torch.inference_mode():
            logits = model.network(tokens).logits
    finally:
        for hook in hooks:
            hook.remove()
    rows = torch.arange(len(tokens))
    direct = logits[rows, last].gather(1, texts.answers) @ torch.tensor([1.0, -1.0])
    assert float((direct - exchange.clean).abs().max()) > 1e-3
    torch.testing.assert_close(exchange.query(heads), direct, atol=1e-4, rtol=0)
    torch.testing.assert_close(exchange.query([Head(0, 1)]), exchange.clean, atol=1e-4, rtol=0)  # of the same token


def test_a_ratio_has_the_error_of_a_ratio():
    draw = np.random.default_rng(0)
    whole = draw.normal(2.0, 0.5, (400, 24))
    part = 0.5 * whole + draw.normal(0.0, 0.3, whole.shape)
    found = [judging.ratio(list(a), list(b)) for a, b in zip(part, whole, strict=True)]
    values = np.array([each.value for each in found])
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert np.mean([each.error for each in found]) == pytest.approx(values.std(), rel=0.15)


def test_it_writes_every_scene_verdicts_and_a_picture(folder, tmp_path):
    namesakes.main(["--models", str(folder), "--scenes", "3", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "namesakes.csv")
    assert set(table["scene"]) == {0, 1, 2} and set(table["group"]) == set(two.GROUPS)
    found = verdicts_of(tmp_path / "namesakes.json")
    assert len(found) == 5 and (tmp_path / "namesakes.png").exists()
    again = tmp_path / "again"
    namesakes.main(["--tables", str(tmp_path / "namesakes.csv"), "--out", str(again)])
    assert [each["outcome"] for each in verdicts_of(again / "namesakes.json")] == [each["outcome"] for each in found]
    assert all("small models" in verdict["classes"] for verdict in found)


def test_too_few_scenes_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        namesakes.main(["--models", str(folder), "--scenes", "2", "--out", str(tmp_path)])
    assert "--scenes must be at least 3" in capsys.readouterr().err
