import pandas as pd
import pytest
import torch
from families import random_network, shake_norms
from scripts import script, verdicts_of
from worded import tokenizer_of, worded_folder

from induction_lab import Head, HookedModel, ablate, attribute_logits, capture, induction_circuit, load_model
from induction_lab.behaviour.next_tokens import NO_ANSWER
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.interventions.edits import OtherOutputs
from induction_lab.interventions.outputs import sums_over
from induction_lab.models.frozen_norms import unembedding_readers

harry_potter = script("essay.harry_potter.experiment")
names, passages = script("essay.harry_potter.names"), script("essay.passages")
DATA = passages.read_data(names.NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(names.NAMES, tmp_path_factory.mktemp("names") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def named(model):
    return names.name_passages(model, DATA, "known", 4)


@pytest.fixture(scope="module")
def streams(model, named):
    return residual_streams(model, named.passages.tokens)


def test_the_file_has_names_enough_and_no_first_name_twice():
    known, made_up, exchanged = (names.names_of(DATA, group) for group in names.GROUPS)
    assert len(known) >= 20 and len(made_up) >= 20
    assert len({first for first, _ in known + made_up}) == len(known + made_up)
    assert sorted(first for first, _ in exchanged) == sorted(first for first, _ in known)
    assert sorted(second for _, second in exchanged) == sorted(second for _, second in known)
    assert not set(exchanged) & set(known)
    assert all(len(rows) >= 10 for rows in DATA["fuzzy"]["kinds"].values())


def test_a_passage_ends_on_the_first_name_and_the_answer_is_the_second(model, named):
    tokens, ids = model.tokenizer, named.passages
    for row in range(8):
        first, second = DATA["known"][row // names.EACH].split()
        at = {mark: int(where[row, 0]) for mark, where in ids.marks.items()}
        assert tokens.convert_ids_to_tokens(int(ids.tokens[row, at["second"]])) == second
        assert tokens.convert_ids_to_tokens(int(ids.tokens[row, at["first_again"]])) == first
        assert (
            at["first_again"] == ids.last[row] and ids.tokens[row, at["second"] - 1] == ids.tokens[row, ids.last[row]]
        )
        assert named.answers[row] == ids.tokens[row, at["second"]]
    stranger = names.name_passages(model, DATA, "known", 4, stranger=True)
    assert not (stranger.passages.tokens == stranger.answers[:, None]).any()
    assert torch.equal(named.by_name(torch.arange(8.0)), torch.tensor([0.5, 2.5, 4.5, 6.5]))


@pytest.mark.parametrize("kind", list(DATA["fuzzy"]["kinds"]))
def test_the_three_wordings_differ_at_the_end_alone(model, kind):
    rows = DATA["fuzzy"]["kinds"][kind]
    assert all(likened != unrelated and likened != f"the {title}" for title, _, likened, unrelated in rows)
    likened, repeated, unrelated = (names.fuzzy_passages(model, DATA, kind, how) for how in names.WORDINGS)
    for other in (repeated, unrelated):
        assert torch.equal(likened.passages.marks["second"], other.passages.marks["second"])
        for row, (start, _) in enumerate(likened.passages.marks["again"].tolist()):
            assert torch.equal(likened.passages.tokens[row, :start], other.passages.tokens[row, :start])
        assert torch.equal(likened.answers, other.answers)


def test_log_probabilities_are_those_of_the_passages_by_themselves(model, named, streams):
    found, slow = names.log_probabilities(model, named, streams.normalised), []
    for row, last in enumerate(named.passages.last.tolist()):
        logits = model.logits(named.passages.tokens[row : row + 1, : last + 1])[0, -1]
        slow.append(logits.log_softmax(-1)[named.answers[row]])
    torch.testing.assert_close(found, torch.stack(slow).view(-1, 2).mean(1), atol=1e-4, rtol=1e-4)


def test_attention_is_what_the_pattern_says(model, named, streams):
    found = names.attention_to(named.passages, streams, "first_again", "second")
    pattern = capture(model, named.passages.prompts, "pattern")["pattern", 1]
    for row in range(8):
        query, key = int(named.passages.last[row]), int(named.passages.marks["second"][row, 0])
        torch.testing.assert_close(found[row, 1], pattern[row, :, query, key], atol=1e-5, rtol=1e-4)


def test_without_heads_is_mean_ablation_with_ordinary_passages(model, named, streams):
    length = named.passages.tokens.shape[1]
    reference = names.ordinary_passages(model, DATA, n_prompts=6, length=length, seed=0)
    assert reference.lengths is None and len(reference) == 6
    mean = OtherOutputs(
        sums_over(reference, lambda prompts: names.outputs(residual_streams(model, prompts.tokens))).mean()
    )
    heads = [Head(0, 2), Head(1, 1)]
    with ablate(model, heads, reference=reference):
        expected = model.hidden(named.passages.tokens)
    torch.testing.assert_close(names.run_without(streams, mean, heads), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(streams.normalised, expected, atol=1e-2)


def test_logits_added_and_rank_are_those_of_the_head_s_own_output(model, named, streams):
    head, row = Head(1, 2), 3
    last, answer = int(named.passages.last[row]), int(named.answers[row])
    written = capture(model, named.passages.prompts, "result", heads=head)["result", 1][row, last, 0]
    gain = model.network.model.norm.weight.detach()
    promoted = model.unembedding @ (gain * written)
    slow = int((promoted > promoted[answer]).sum())
    at_end = names.written_at_end(model, named, streams)
    assert names.ranks(model, named, at_end, [head])[row] == slow
    stream = streams.before[-1][row, last]
    scale = (stream.square().mean() + model.network.config.rms_norm_eps).sqrt()
    added = names.logits_added(model, named)
    torch.testing.assert_close(added[row, 1, 2], (promoted[answer] - promoted.mean()) / scale, atol=1e-4, rtol=1e-3)
    answers = torch.full_like(named.passages.tokens, NO_ANSWER)
    answers[row, last] = answer
    whole = attribute_logits(model, named.passages.prompts, answers=answers)
    torch.testing.assert_close(added[row, 0, 3], whole.values[whole.labels.index("L0H3"), row, last])


@torch.no_grad()
def test_ranks_are_those_of_what_enters_the_stream_where_a_norm_comes_before(folder, named):
    """A layer's heads together write what leaves the norm after its attention."""
    own = HookedModel(shake_norms(random_network("gemma3")))
    tokens = named.passages.tokens % own.d_vocab
    other = named._replace(passages=named.passages._replace(tokens=tokens), answers=named.answers % own.d_vocab)
    seen = []
    hook = own.anatomy.norm_after(1).register_forward_hook(lambda _, __, output: seen.append(output))
    streams = residual_streams(own, tokens)
    hook.remove()
    at_end = names.written_at_end(own, other, streams)
    row = 2
    promoted = unembedding_readers(own).float() @ seen[0][row, int(named.passages.last[row])]
    slow = int((promoted > promoted[other.answers[row]]).sum())
    assert names.ranks(own, other, at_end, [Head(1, head) for head in range(own.n_heads)])[row] == slow


@pytest.fixture(scope="module")
def circuit():
    """The circuit written by hand, which copies whatever comes again, and words for it."""
    data = {
        "passages": ["Now {name} was glad to see {first}", "Then {name} said no more, and so {first}"],
        "stranger": "a stranger", "known": ["Ann Low", "Ben Day", "Cleo Roe"], "made_up": ["Dov Quist"],
    }  # fmt: skip
    tokenizer = tokenizer_of(str(data))
    network = induction_circuit(d_vocab=len(tokenizer), n_ctx=32)
    return HookedModel(network, tokenizer, name="circuit"), data


@pytest.mark.parametrize("group", ["known", "exchanged"])
def test_the_circuit_by_hand_finds_every_name_and_without_its_head_none(circuit, group):
    model, data = circuit
    named = names.name_passages(model, data, group)
    streams = residual_streams(model, named.passages.tokens)
    found = names.attention_to(named.passages, streams, "first_again", "second")
    assert found[:, 1].amax(1).min() > 0.99
    induction = [Head(1, int(found[:, 1].mean(0).argmax()))]
    assert names.log_probabilities(model, named, streams.normalised).min() > -0.1
    at_end = names.written_at_end(model, named, streams)
    assert names.ranks(model, named, at_end, induction).max() == 0
    length = named.passages.tokens.shape[1]
    reference = names.ordinary_passages(model, data, n_prompts=3, length=min(length, 9), seed=0)
    assert len(reference) == 3
    alone = names.name_passages(model, data, group, stranger=True)
    assert names.log_probabilities(model, alone, model.hidden(alone.passages.tokens)).max() < -1


def test_verdicts_can_come_out_either_way():
    rows = []
    for group in names.GROUPS:
        lost = 1.0 if group == "known" else 3.0
        plain = {"uniform attention": 0.03, "probability": 0.9, "probability without occurrence": 0.1}
        rows += [(group, quantity, "", value) for quantity, value in plain.items()]
        own = {"attention": 0.5, "lost log-probability": lost, "logits added": 4.0, "rank": 0.0,
               "probability left": 0.1, harry_potter.FIRST: 0.9}  # fmt: skip
        rows += [(group, quantity, "induction", value) for quantity, value in own.items()]
        other = dict.fromkeys(own, 0.01) | {"rank": 50.0, "lost log-probability": 0.5 if group == "known" else 0.0}
        rows += [(group, quantity, "random 0", value) for quantity, value in other.items()]
    for kind in harry_potter.JUDGED:
        for heads, value in (("induction", 0.2), ("random 0", 0.01)):
            rows += [(kind, f"attention gained, {how}", heads, value) for how in ("likened", "repeated")]
        rows.append((kind, harry_potter.AS_WELL, "", 0.5))
        rows += [(kind, f"log-probability gained, {how}", "", 2.0) for how in ("likened", "repeated")]
    table = pd.DataFrame(rows, columns=["group", "quantity", "heads", "value"])
    table = table.assign(model="smollm2-135m", standard_error=0.01, median=table["value"], members="L1H1", names=9)
    table = pd.concat([table, table.assign(model="gemma3-270m")])
    verdicts = (harry_potter.looks_back, harry_potter.predicts, harry_potter.memory, harry_potter.unembeds,
                harry_potter.likens)  # fmt: skip
    assert [verdict(table).outcome for verdict in verdicts] == ["holds"] * 5
    exchanged = table.assign(heads=table["heads"].map({"induction": "random 0", "random 0": "induction", "": ""}),
                             value=table["value"].where(table["quantity"] != harry_potter.AS_WELL, 0.1))  # fmt: skip
    assert [verdict(exchanged).outcome for verdict in verdicts] == ["does not hold here"] * 5


def test_it_writes_table_verdicts_and_pictures(folder, model, tmp_path):
    harry_potter.main(["--models", str(folder), "--names", "3", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "harry_potter.csv", keep_default_na=False)
    named = names.name_passages(model, DATA, "made_up", 3)
    logs = names.log_probabilities(model, named, model.hidden(named.passages.tokens))
    row = table[(table["group"] == "made_up") & (table["quantity"] == "log-probability")].iloc[0]
    assert row["value"] == pytest.approx(float(logs.mean()), abs=1e-3) and row["names"] == 3
    assert row["standard_error"] == pytest.approx(float(logs.std()) / 3**0.5, abs=1e-3)
    found = verdicts_of(tmp_path / "harry_potter.json")
    assert len(found) == 5
    harry_potter.main(["--tables", str(tmp_path / "harry_potter.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "harry_potter.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]
    assert len(list(tmp_path.glob("harry_potter*.png"))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--names", "2"], "--names must be at least 3"), (["--models", "induction-2l"], "has no tokenizer")],
)
def test_a_mistake_is_told(given, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        harry_potter.main(["--models", str(folder), "--out", str(tmp_path / "out"), *given])
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
