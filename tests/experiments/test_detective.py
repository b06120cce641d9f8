import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import load_model
from induction_lab.internals.residual_stream import residual_streams

detective, conclusions = (script(f"essay.detective.{name}") for name in ("experiment", "conclusions"))
DATA = script("essay.passages").read_data(detective.DATA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(detective.DATA, tmp_path_factory.mktemp("detective") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.mark.parametrize("kind", detective.KINDS)
def test_stories_differ_in_the_clue_alone(model, kind):
    own = detective.read_stories(model, kind)
    n, tokens = len(own.story), own.passages.tokens
    assert n == 8 * 4 and len(tokens) == 2 * n
    differ = (tokens[:n] != tokens[n:]).nonzero()
    assert torch.equal(differ[:, 1], own.passages.marks["clue"][:n, 0])
    said = model.tokenizer.convert_ids_to_tokens(tokens[0].tolist())
    names = [model.tokenizer.convert_ids_to_tokens(int(token)) for token in own.names[0]]
    assert names == ["Anna", "Paul"] and said[1] == "Anna" and DATA[kind]["stories"][0][1] in said


def test_the_lead_is_that_of_the_right_name(model):
    own = detective.read_stories(model, "motive", 3)
    lead = own.lead(model, model.hidden(own.passages.tokens))
    n = len(own.story)
    for pair in (0, 5):
        expected = 0.0
        for row, sign in ((pair, 1), (pair + n, -1)):
            tokens = own.passages.tokens[row : row + 1, : own.passages.last[row] + 1]
            logits = model.logits(tokens)[0, -1].detach()
            expected += sign * float(logits[own.names[pair, 0]] - logits[own.names[pair, 1]]) / 2
        assert float(lead[pair]) == pytest.approx(expected, abs=1e-4)


def test_the_answer_turns_with_the_clue_before_all_layers_and_with_the_end_after_them(model):
    rows = pd.DataFrame(detective.measured(model, "fingerprint", 3))
    first = rows[(rows["place"] == "clue") & (rows["layer"] == 0)]
    last = rows[(rows["place"] == "end") & (rows["layer"] == model.n_layers)]
    for part in (first, last):
        assert part["left"].to_list() == pytest.approx((-part["lead"]).to_list(), abs=1e-4)
    for place, layer in (("end", 0), ("clue", model.n_layers), ("before the clue", 0)):
        same = rows[(rows["place"] == place) & (rows["layer"] == layer)]
        assert same["left"].to_list() == pytest.approx(same["lead"].to_list(), abs=1e-4)


def test_a_stream_put_in_is_what_a_hook_puts_in(model):
    own = detective.read_stories(model, "fingerprint", 3)
    streams, tokens = residual_streams(model, own.passages.tokens), own.passages.tokens
    at, rows = own.passages.marks["clue"][:, 0], torch.arange(len(tokens))

    def put_in(stream, hook):
        stream = stream.clone()
        stream[rows, at] = streams.before[1][rows.roll(len(rows) // 2), at]
        return stream

    with torch.inference_mode():
        found = model.unembed(detective.exchanged(streams, 1, [at]))
        expected = model.hooked.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", put_in)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def table_of(clue, end, lead=2.0):
    """Leads that turn at these depths, all at once."""
    depths = [i / 10 for i in range(11)]
    return pd.DataFrame(
        [
            {
                "model": "gemma3",
                "kind": kind,
                "place": place,
                "depth": depth,
                "story": story,
                "lead": lead + 0.01 * story,
            }
            | {"left": (lead + 0.01 * story) * (-1 if turns else 1)}
            for kind in detective.KINDS
            for place in ("clue", "end", "before the clue")
            for depth in depths
            for story in range(4)
            for turns in [{"clue": depth < clue[kind], "end": depth > end}.get(place, False)]
        ]
    )


def test_verdicts_can_come_out_either_way():
    as_told = table_of({"fingerprint": 0.2, "motive": 0.5}, 0.8)
    other = table_of({"fingerprint": 0.5, "motive": 0.5}, 0.4)
    for judge in (conclusions.fingerprint, conclusions.motive, conclusions.culprit):
        assert judge(as_told).outcome == "holds with a caveat" and judge(other).outcome == "does not hold here"
        deaf = as_told.assign(lead=as_told["story"].map({0: 1.0, 1: -1.0, 2: 1.5, 3: -1.0}))
        assert judge(deaf).outcome == "not tested" and "not judged" in str(judge(deaf).numbers)
    effects, _ = conclusions.depths(as_told, "fingerprint", "clue")
    assert effects["gemma3"].value == pytest.approx(0.15) and effects["gemma3"].error == pytest.approx(0, abs=1e-9)


def test_it_writes_a_table_verdicts_and_a_picture(folder, tmp_path):
    detective.main(["--models", str(folder), "--stories", "3", "--out", str(tmp_path)])
    assert len(verdicts_of(tmp_path / "detective.json")) == 3 and (tmp_path / "detective.png").is_file()


@pytest.mark.parametrize(
    ("given", "message"), [(["--models", "induction-2l"], "no tokenizer"), (["--stories", "2"], "--stories must be")]
)
def test_a_mistake_is_told(given, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        detective.main(["--models", str(folder), "--out", str(tmp_path / "out"), *given])
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
