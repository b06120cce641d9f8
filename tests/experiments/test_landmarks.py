import itertools

import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import capture, load_model
from induction_lab.weights.rotary import relative_rotations

landmarks, senses, passages = (script(f"essay.{name}") for name in ("layers.landmarks", "geometry.senses", "passages"))
DATA = passages.read_data(landmarks.DATA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the sentences."""
    said = tmp_path_factory.mktemp("landmarks") / "said.txt"
    said.write_text(f"{landmarks.DATA.read_text()} {senses.NEUTRAL}")
    return worded_folder(said, said.parent / "words")


def test_no_landmark_says_the_city_or_country_and_none_is_there_twice():
    cities = DATA["cities"]
    assert len(cities) >= 24 and {len(things) for things in cities.values()} == {3}
    every = [thing for things in cities.values() for thing in things]
    assert len(set(every)) == len(every)
    for city, (*marks, country) in cities.items():
        assert not any(name.lower()[:5] in mark.lower() for name in (city, country) for mark in marks), city


def test_scores_are_those_of_attention_meant_over_openings_distances_and_landmarks(folder):
    """One pair of cities written out: queries and keys captured, turned by each distance."""
    model = load_model(folder)
    cities, found = landmarks.all_scores(model, DATA, 6)
    layer, query, key = 1, cities.index("Rome"), cities.index("Paris")
    ids = model.tokenizer

    def part(text, name):
        tokens = torch.tensor([[model.bos_token_id, *ids(text, add_special_tokens=False)["input_ids"]]])
        return capture(model, tokens, name)[name, layer][0, -1]

    q = [part(one.format(city="Rome"), "q") for one in DATA["openings"]]
    things = {mark: part(DATA["neutral"].format(thing=mark), "k") for mark in DATA["cities"]["Paris"]}
    turns = relative_rotations(model, landmarks.OFFSETS)[layer]
    for head in range(model.n_heads):
        group = head // (model.n_heads // model.n_kv_heads)
        by_thing = [
            sum(float(x[head] @ turn @ k[group]) for x, turn in itertools.product(q, turns))
            / (len(q) * len(turns) * model.d_head**0.5)
            for k in things.values()
        ]
        marks = found[landmarks.LANDMARKS][layer, head, query, key]
        assert float(marks) == pytest.approx((by_thing[0] + by_thing[1]) / 2, abs=1e-4)
        assert float(found[landmarks.COUNTRIES][layer, head, query, key]) == pytest.approx(by_thing[2], abs=1e-4)


def test_gains_and_pairs_are_written_out_and_a_half_knows_nothing_of_the_other():
    score = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    for city in range(6):
        by_row, by_column, whole = (
            float(x) for x in (score[1, city].mean(), score[1, :, city].mean(), score[1].mean())
        )
        own = float(score[1, city, city])
        assert float(landmarks.gains(score)[1, city]) == pytest.approx(own - by_row - by_column + whole, abs=1e-6)
        others = [j for j in range(6) if j != city]
        apart = [float(score[1, j, j] - score[1, city, j] - score[1, j, city]) + own for j in others]
        assert float(landmarks.right(score)[1, city]) == pytest.approx(sum(x > 0 for x in apart) / 5, abs=1e-6)
    assert landmarks.right(torch.zeros(1, 4, 4)).tolist() == [[0.5] * 4]
    halved = landmarks.in_halves(score, landmarks.gains)
    even = torch.tensor([0, 2, 4])
    torch.testing.assert_close(halved[:, even], landmarks.gains(score[:, even][:, :, even]))
    dealt = landmarks.dealt_out(6, 0)
    assert sorted(dealt.tolist()) == list(range(6)) and not (dealt == torch.arange(6)).any()
    assert ((dealt - torch.arange(6)) % 2 == 0).all()  # within the half


def test_a_head_that_asks_for_landmarks_is_found_on_the_other_half():
    score = 0.01 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    score[1] += torch.eye(8)
    chosen = landmarks.best_elsewhere(landmarks.in_halves(score, landmarks.gains), 1)
    assert chosen[:, 0].tolist() == [1] * 8
    assert landmarks.of_heads(score, chosen, landmarks.right).tolist() == [1.0] * 8
    dealt = landmarks.of_heads(score[..., landmarks.dealt_out(8, 1)], chosen, landmarks.gains)
    assert float(dealt.mean()) < 0


def test_it_writes_verdicts_and_a_picture_and_judges_again(folder, tmp_path):
    landmarks.main(["--models", str(folder), "--cities", "8", "--out", str(tmp_path)])
    found = verdicts_of(tmp_path / "landmarks.json")
    assert (tmp_path / "landmarks.png").exists() and len(found) == 3
    landmarks.main(["--tables", str(tmp_path / "landmarks.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "landmarks.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


def test_too_few_cities_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        landmarks.main(["--models", str(folder), "--cities", "5", "--out", str(tmp_path)])
    assert "--cities must be at least 6" in capsys.readouterr().err
