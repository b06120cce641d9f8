import re
from collections import Counter

import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import capture, load_model

module = script("essay.layers.irony_negation")
DATA = script("essay.passages").read_data(module.DATA)


def words(text):
    return Counter(re.findall(r"\w+", text.lower()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the sentences."""
    said = tmp_path_factory.mktemp("irony") / "said.txt"
    said.write_text(
        " ".join(
            f"{one}{DATA[kind]['ending']} {' '.join(DATA[kind]['answers'])} They spoke about the"
            for kind in module.KINDS
            for each in module.written(DATA, kind).sentences
            for one in each
        )
    )
    return worded_folder(said, said.parent / "words")


def test_sentences_are_of_the_same_words_and_enough_of_each_kind():
    negation, irony = (module.written(DATA, kind) for kind in module.KINDS)
    assert len(negation.sentences) >= 40 and len(irony.sentences) >= 40
    for four in negation.sentences:
        assert len(set(four)) == 4 and all(words(one) == words(four[0]) for one in four)
    for good_praise, good_complaint, bad_praise, bad_complaint in irony.sentences:
        assert words(good_praise) + words(bad_complaint) == words(good_complaint) + words(bad_praise)
    assert negation.sentences[0][0] == "The hotel room was not noisy, it was quiet." and negation.answers[0] > 0
    assert negation.sentences[1][3] == "Everybody found the soup bland, nobody found it tasty."
    assert negation.answers.tolist()[3] == -1 and irony.answers.tolist() == [-1, 1, 1, -1]


@pytest.mark.parametrize("kind", module.KINDS)
def test_no_list_of_the_words_tells_the_answer_and_the_plain_feature_of_irony_is_in_it(kind):
    items = module.written(DATA, kind)
    known = sorted({word for four in items.sentences for one in four for word in words(one)})
    bags = torch.tensor([[[float(words(one)[word]) for word in known] for one in four] for four in items.sentences])
    answers, plain = (each.expand(len(bags), -1) for each in (items.answers, items.plain))
    assert set(module.probed(bags, answers[None]).flatten().tolist()) == {0.5}
    both = torch.cat([bags, answers[..., None]], -1)
    assert module.probed(both, answers[None]).min() == 1  # and a probe that is told finds it


def test_a_probe_is_ridge_written_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(22, 4, 5, generator=generator)
    answers = torch.tensor([1.0, -1.0, -1.0, 1.0]).expand(22, -1)
    x[..., 0] += 0.8 * answers
    found = module.probed(x, torch.stack([answers, module.turned_round(answers, 0)]))
    centred = (x - x.mean(1, keepdim=True)).double()
    for item in (0, 5, 21):
        rest = [i for i in range(22) if i % module.FOLDS != item % module.FOLDS]
        rows, y = centred[rest].flatten(0, 1), answers[rest].double().flatten()
        penalty = rows.square().sum(1).mean() * torch.eye(5, dtype=torch.double)
        weights = torch.linalg.solve(rows.T @ rows + penalty, rows.T @ y)
        right = ((centred[item] @ weights) * answers[item] > 0).float().mean()
        assert float(found[0, item]) == float(right)
    assert found[0].mean() > 0.75 > 0.6 > abs(float(found[1].mean()) - 0.5) + 0.4


def test_half_of_the_items_are_turned_round():
    answers = torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(12, -1)
    turned = module.turned_round(answers, 3)
    assert (turned == -answers).all(1).sum() == 6 and (turned == answers).all(1).sum() == 6


def test_queries_are_the_model_s_own_at_the_end_and_the_first_layer_knows_nothing(folder):
    model = load_model(folder)
    items = module.written(DATA, module.NEGATION, 11)
    ending = DATA["negation"]["ending"]
    stream = module.at_the_end(model, items, ending)
    found = module.of_layer(model, 1, stream[1], items)
    rows = []
    for four in items.sentences:
        for one in four:
            ids = model.tokenizer(f"{one}{ending}", add_special_tokens=False)["input_ids"]
            q = capture(model, torch.tensor([[model.bos_token_id, *ids]]), "q", layers=1)["q", 1][0, -1]
            rows.append(q.flatten())
    slow = module.probed(torch.stack(rows).unflatten(0, (11, 4)), items.answers.expand(11, -1)[None])[0]
    assert (found[module.QUERIES] - slow).abs().mean() < 0.03  # a margin near 0 may be rounded to the other side
    first = module.of_layer(model, 0, stream[0], items)
    assert first[module.QUERIES].mean() == first[module.PLAIN].mean() == 0.5
    answered = module.answered(model, stream[-1], DATA["negation"]["answers"], items)
    good, bad = (model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("good", "bad"))
    ids = [model.tokenizer(f"{one}{ending}", add_special_tokens=False)["input_ids"] for one in items.sentences[4]]
    lean = [model.logits(torch.tensor([[model.bos_token_id, *one]]))[0, -1] for one in ids]
    lean = torch.stack([float(each[good] - each[bad]) * torch.ones(()) for each in lean])
    assert float(answered[4]) == float(((lean - lean.mean()) * items.answers > 0).float().mean())


def test_it_writes_verdicts_and_a_picture_and_judges_again(folder, tmp_path):
    module.main(["--models", str(folder), "--items", "11", "--out", str(tmp_path)])
    found = verdicts_of(tmp_path / "irony_negation.json")
    assert (tmp_path / "irony_negation.png").exists() and len(found) == 4
    module.main(["--tables", str(tmp_path / "irony_negation.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "irony_negation.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


def test_too_few_items_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        module.main(["--models", str(folder), "--items", "10", "--out", str(tmp_path)])
    assert "--items must be at least 11" in capsys.readouterr().err
