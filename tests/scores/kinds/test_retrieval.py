"""Heads that copy a needle: the hand-built induction head does, and what is counted is counted slowly."""

import pytest
import torch
from tokenizers import models, pre_tokenizers
from worded import BOS, UNKNOWN, tokenizer_of

from induction_lab import HookedModel, capture, induction_circuit, load_model, score_heads
from induction_lab.data.word_lists import load_words
from induction_lab.models.attention_only.by_hand import INDUCTION, PREVIOUS_TOKEN, RESTING, UNIFORM
from induction_lab.scores.kinds.retrieval import Retrieval

NEEDLE = {"statement": "Know the Answer:", "answer": "zebra quince jasper onyx", "question": "What?"}


def worded_circuit(*, noise: float = 0.0) -> HookedModel:
    """It knows the words of the needle, and those that the prose begins with."""
    tokenizer = tokenizer_of()
    words = {"Question:", *" ".join(NEEDLE.values()).split(), *load_words("haystack")["prose"].split()[:70]}
    known = {word: i for i, word in enumerate([BOS, UNKNOWN, *sorted(words)])}
    tokenizer.backend_tokenizer.model = models.WordLevel(known, UNKNOWN)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    network = induction_circuit(d_vocab=len(known), n_ctx=100)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += noise * torch.randn_like(parameter)
    return HookedModel(network, tokenizer, name="circuit")


def test_an_induction_head_retrieves_and_the_others_do_not():
    model = worded_circuit()
    scores = score_heads(model, scores=[Retrieval(lengths=[60, 90, 400], needles=[NEEDLE])])["retrieval"]
    assert scores[INDUCTION] > 0.999
    assert all(scores[head] < 1e-3 for head in (PREVIOUS_TOKEN, UNIFORM, RESTING))


def test_what_the_model_does_not_say_is_no_hit():
    model = worded_circuit()
    with torch.no_grad():
        model.network.unembed.W_U.neg_()  # it says anything but what the head looks at
    assert score_heads(model, scores=[Retrieval(lengths=[60], needles=[NEEDLE])])["retrieval"].max() == 0


def test_hits_are_counted_as_the_matrices_and_the_logits_say():
    model, score = worded_circuit(noise=0.065), Retrieval(lengths=[80], needles=[NEEDLE])
    prompts = score.own_prompts(model)
    by_hand = torch.zeros(model.n_layers, model.n_heads)
    for row, (needle, start, n) in zip(prompts.tokens, prompts.marks.tolist(), strict=True):
        assert row[needle : needle + n].tolist() == row[start : start + n].tolist() and start + n == len(row)
        chosen = model.logits(row[None])[0].argmax(-1)
        acts = capture(model, row[None], "pattern")
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                for t in range(start - 1, start + n - 1):
                    top = int(acts["pattern", layer][0, head, t].argmax())
                    hit = needle <= top < needle + n and row[top] == row[t + 1] == chosen[t]
                    by_hand[layer, head] += hit / n / len(prompts)
    torch.testing.assert_close(score_heads(model, scores=[score])["retrieval"], by_hand, atol=1e-6, rtol=1e-5)
    assert 0.1 < by_hand.max() < 0.9


def test_prompts_are_as_long_as_asked_and_needles_lie_at_their_depths(smollm2):
    prompts = Retrieval(lengths=[512, 256, 10_000]).own_prompts(smollm2)
    assert prompts.real_lengths.tolist() == [256] * 15 + [512] * 15
    depth = prompts.marks[15:20, 0] / 512
    assert depth[0] < 0.25 and depth[-1] > 0.7 and (depth.diff() > 0).all()
    assert smollm2.tokenizer.decode(prompts.tokens[0, :256]).count("brass lantern") == 2


def test_models_without_words_or_room_are_refused():
    with pytest.raises(ValueError, match="retrieval: the needle is text, and the model has no tokenizer"):
        score_heads(load_model(), scores="retrieval")
    with pytest.raises(ValueError, match="A haystack of 256 tokens .* the model's context holds 100"):
        score_heads(worded_circuit(), scores="retrieval")
    with pytest.raises(ValueError, match="prompts of 12 tokens cannot be made: needle and question have"):
        score_heads(worded_circuit(), scores=[Retrieval(lengths=[12], needles=[NEEDLE])])
