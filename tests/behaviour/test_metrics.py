import pytest
import torch
from by_hand import losses, model_of, own_model, tokens_of

from induction_lab.behaviour.losses import losses_on
from induction_lab.behaviour.metrics import Measure, Metric, as_metric, icl_score, name_of
from induction_lab.data.prompts import Prompts

MODELS = ("bundled", "small", "llama", "gpt2", "cohere", "gemma2", "granite", "phi", "gptj", "bloom")


def copied(row):
    """Positions whose next token followed the latest earlier occurrence of the current one, one by one."""
    found = []
    for t in range(1, len(row) - 1):
        earlier = [s for s in range(1, t) if row[s] == row[t]]
        if earlier and row[earlier[-1] + 1] == row[t + 1]:
            found.append(t)
    return found


def slow(name, logits, row):
    """One prompt's metric from its full logits `[pos, d_vocab]`."""
    loss, at = losses(logits[None], row[None])[0], copied(row.tolist())
    if name == "copy_loss":
        return loss[at].mean()
    if name == "copy_logit":
        return (logits[at, row[[t + 1 for t in at]]] - logits[at].mean(-1)).mean()
    return loss.mean() if name == "loss" else loss[11] - loss[3]  # the losses on tokens 12 and 4


def metric_of(name):
    return icl_score(4, 12) if name == "icl_score" else name


NAMES = ("copy_loss", "loss", "icl_score", "copy_logit")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_each_metric_is_what_full_logits_say(model, name):
    model = model_of(model)
    tokens = tokens_of(model)
    logits = model.logits(tokens).float()
    wanted = torch.stack([slow(name, *each) for each in zip(logits, tokens, strict=True)])
    measure = Measure(model, metric_of(name), Prompts(tokens))
    torch.testing.assert_close(measure.clean(model.hidden(tokens)), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measure.from_logits(logits, slice(0, 3)), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measure.from_logits(logits[1:], slice(1, 3)), wanted[1:], atol=1e-4, rtol=1e-4)
    rows = torch.tensor([2, 0, 2, 1])
    torch.testing.assert_close(measure(model.hidden(tokens)[rows], rows), wanted[rows], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        measure.of(slice(1, 3)).clean(model.hidden(tokens[1:])), wanted[1:], atol=1e-4, rtol=1e-4
    )
    assert wanted.std() > 1e-4  # the control: another prompt's value would be seen


def test_scaled_capped_and_biased_logits_are_read_as_they_are():
    """The models above that would catch it if `copy_logit` left any of it out."""
    assert model_of("cohere").logit_scale != 1 and model_of("granite").logit_scale != 1
    assert model_of("gemma2").network.config.final_logit_softcapping
    assert all(model_of(name).network.get_output_embeddings().bias is not None for name in ("phi", "gptj"))


@pytest.mark.parametrize("name", ["phi", "gptj"])
def test_copy_logit_counts_the_unembeddings_bias(name):
    model = model_of(name)
    tokens, bias = tokens_of(model), model.network.get_output_embeddings().bias
    before = Measure(model, "copy_logit", Prompts(tokens)).clean(model.hidden(tokens))
    try:
        with torch.no_grad():
            bias[tokens[0, 5]] += 9.0
        after = Measure(model, "copy_logit", Prompts(tokens)).clean(model.hidden(tokens))
        logits = model.logits(tokens)
        wanted = torch.stack([slow("copy_logit", *each) for each in zip(logits, tokens, strict=True)])
    finally:
        with torch.no_grad():
            bias[tokens[0, 5]] -= 9.0
    torch.testing.assert_close(after, wanted, atol=1e-4, rtol=1e-4)
    assert float(after[0] - before[0]) > 0.5


def padded(model):
    """A prompt that repeats, one cut short, one cut before anything repeats; all padded with what would be copied."""
    tokens = tokens_of(model)
    return Prompts(tokens, lengths=torch.tensor([19, 14, 8]))


@pytest.mark.parametrize("name", ["copy_loss", "loss", "copy_logit"])
@pytest.mark.parametrize("model", ["small", "llama", "bloom"])
def test_padding_is_not_read(model, name):
    model = model_of(model)
    prompts = padded(model)
    cut = [row[:length] for row, length in zip(prompts.tokens, prompts.lengths, strict=True)]
    wanted = torch.stack([slow(name, model.logits(row[None])[0], row) for row in cut])
    measure = Measure(model, name, prompts)
    values = measure.clean(model.hidden(prompts.tokens))
    torch.testing.assert_close(values, wanted, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert measure.defined.tolist() == [True, True, name == "loss"]
    assert values.isnan().tolist() == [False, False, name != "loss"]
    with_padding = Measure(model, name, Prompts(prompts.tokens)).clean(model.hidden(prompts.tokens))
    assert not torch.allclose(values[1], with_padding[1], atol=1e-3)  # the control


@pytest.mark.parametrize("model", ["small", "llama"])
def test_a_function_is_called_with_each_prompts_logits_and_tokens_without_padding(model):
    model = model_of(model)
    prompts, seen = padded(model), []

    def last_logit(logits, tokens):
        seen.append((logits.clone(), tokens.tolist()))
        return logits[-1, 0] if len(tokens) > 8 else float(logits[-1, 0])

    measure = Measure(model, last_logit, prompts)
    logits = model.logits(prompts.tokens)
    wanted = torch.stack([logits[i, n - 1, 0] for i, n in enumerate(prompts.lengths)])
    torch.testing.assert_close(measure.clean(model.hidden(prompts.tokens)), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measure.from_logits(logits, slice(0, 3)), wanted)
    torch.testing.assert_close(measure.of(slice(1, 2)).from_logits(logits[1:2], slice(0, 1)), wanted[1:2])
    for i, (got, tokens) in enumerate(seen[:3]):
        assert got.shape == (int(prompts.lengths[i]), model.d_vocab)
        assert tokens == prompts.tokens[i, : prompts.lengths[i]].tolist()
        torch.testing.assert_close(got, logits[i, : len(tokens)], atol=1e-4, rtol=1e-4)


def test_metrics_from_logits_can_be_differentiated():
    model = model_of("small")
    tokens = tokens_of(model)
    for metric in ("copy_loss", "copy_logit", lambda logits, tokens: logits.square().mean()):
        logits = model.logits(tokens).clone().requires_grad_()
        Measure(model, metric, Prompts(tokens)).from_logits(logits, slice(0, 3)).sum().backward()
        assert float(logits.grad.abs().sum()) > 0


RETURNS = {
    "NaN": (lambda logits, tokens: float("nan"), "returned nan"),
    "a tensor that is NaN": (lambda logits, tokens: logits[0, 0] * torch.nan, "returned nan"),
    "infinity": (lambda logits, tokens: float("inf"), "returned inf"),
    "several numbers": (lambda logits, tokens: logits[:2, 0], r"returned 'a tensor of shape \(2,\)'"),
    "nothing": (lambda logits, tokens: None, "returned None"),
    "text": (lambda logits, tokens: "0.5", "returned '0.5'"),
}


@pytest.mark.parametrize("what", RETURNS)
def test_refuses_a_function_that_returns(what):
    model, (function, message) = model_of("small"), RETURNS[what]
    tokens = tokens_of(model)
    measure = Measure(model, function, Prompts(tokens))
    with pytest.raises(ValueError, match=f"must return one number.*<lambda> {message}"):
        measure.clean(model.hidden(tokens))
    with pytest.raises(ValueError, match=f"must return one number.*<lambda> {message}"):
        measure.from_logits(model.logits(tokens), slice(0, 3))


@pytest.mark.parametrize("number", [3, 2.5, torch.tensor(2.5), torch.tensor([[4]])])
def test_accepts_one_number_however_it_comes(number):
    model = model_of("small")
    tokens = tokens_of(model)
    values = Measure(model, lambda logits, tokens: number, Prompts(tokens)).clean(model.hidden(tokens))
    assert values.tolist() == [float(number)] * 3


def test_losses_of_many_prompts_are_those_of_each(monkeypatch):
    model = model_of("small")
    tokens = tokens_of(model)
    monkeypatch.setattr("induction_lab.behaviour.losses.TOKENS_A_BATCH", tokens.shape[1] * 2)
    expected = losses(model.logits(tokens), tokens)
    torch.testing.assert_close(losses_on(model, Prompts(tokens)), expected, atol=1e-5, rtol=1e-5)


def test_the_in_context_learning_score_is_late_less_early_and_a_window_averages():
    model = own_model(n_ctx=64)
    tokens = tokens_of(model, period=25)
    loss = losses(model.logits(tokens), tokens)  # column i: on token i + 1
    plain = Measure(model, icl_score(10, 40), Prompts(tokens)).clean(model.hidden(tokens))
    torch.testing.assert_close(plain, loss[:, 39] - loss[:, 9], atol=1e-4, rtol=1e-4)
    wide = Measure(model, icl_score(10, 40, window=2), Prompts(tokens)).clean(model.hidden(tokens))
    torch.testing.assert_close(wide, loss[:, 37:42].mean(1) - loss[:, 7:12].mean(1), atol=1e-4, rtol=1e-4)
    assert icl_score(10, 40).name != icl_score(10, 40, window=2).name
    for early, late, window in ((0, 5, 0), (5, 5, 0), (3, 9, 3), (4, 8, 2)):
        with pytest.raises(ValueError, match=f"got early={early}, late={late}, window={window}"):
            icl_score(early, late, window=window)


def test_metrics_that_read_nothing_are_refused_with_what_to_do():
    model = model_of("small")
    tokens = tokens_of(model)
    with pytest.raises(ValueError, match="reads tokens up to 500, the longest prompt here has only 19"):
        Measure(model, "icl_score", Prompts(tokens))
    some = Measure(model, icl_score(4, 12), Prompts(tokens, lengths=torch.tensor([19, 12, 19])))
    assert some.defined.tolist() == [True, False, True]  # a prompt that is too short has no value
    Measure(model, icl_score(4, 18), Prompts(tokens))  # the last token there is
    for metric in ("copy_loss", "copy_logit"):
        with pytest.raises(ValueError, match=f"{metric} reads nothing.*repeated_tokens"):
            Measure(model, metric, Prompts(tokens[:, :10]))
    with pytest.raises(ValueError, match="must be one of copy_loss, loss, icl_score, copy_logit.*got 'accuracy'"):
        as_metric("accuracy")


def test_only_some_of_the_prompts_may_have_no_value_and_a_part_of_them_may_have_none_at_all():
    model = model_of("small")
    prompts = padded(model)
    part = Measure(model, "copy_loss", prompts).of(slice(2, 3))
    assert part.clean(model.hidden(prompts.tokens[2:])).isnan().all()
    assert part.from_logits(model.logits(prompts.tokens[2:]), slice(0, 1)).isnan().all()


def test_names_are_those_of_metrics_functions_and_objects():
    class Judge:
        def __call__(self, logits, tokens):
            return 0.0

    assert [name_of(as_metric(name)) for name in ("copy_loss", "loss")] == ["copy_loss", "loss"]
    assert name_of(as_metric("icl_score")) == "icl_score_50_500"
    assert name_of(slow) == "slow" and name_of(Judge()) == "Judge"
    own = Metric("mine", lambda prompts: torch.ones(prompts.tokens.shape))
    assert as_metric(own) is own
