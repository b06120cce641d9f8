"""Token and concept heads, by where they look and by what they cause: hand-built ones, and the slow way."""

from functools import cache

import pytest
import torch
import transformers as hf
from by_hand import model_of, with_z, z_of
from families import LLAMA_LIKE
from hand_built import HandBuilt, back, but_first
from worded import tokenizer_of

from induction_lab import HookedModel, capture, induction_circuit, load_model, score_heads
from induction_lab.data.word_lists import load_words
from induction_lab.models.attention_only.by_hand import INDUCTION, PREVIOUS_TOKEN
from induction_lab.scores.kinds.dual_route import CONTEXT, ConceptMatching, TokenMatching, copied
from induction_lab.scores.kinds.dual_route_copying import ConceptCopying, TokenCopying, _prompts

ENTITIES = ["blue end", "blue red end", "blue red green end", "blue red green pink end", "nothing known"]
LAST, AHEAD, NEXT = (0, 1), (1, 0), (2, 0)


@cache
def concept_model() -> HookedModel:
    """Two before; words' ends. What follows the next token, by what was two before; said one position later."""
    tokenizer = tokenizer_of(*ENTITIES[:-1], " ".join(f"w{i}" for i in range(90)))
    size = {"d_vocab": len(tokenizer), "n_ctx": 70}
    built = HandBuilt(
        n_layers=3, n_heads=2, two_before=len(tokenizer), ahead=len(tokenizer), other=len(tokenizer), **size
    )
    copy, end = but_first(len(tokenizer)), torch.zeros(70, len(tokenizer))
    end[:, tokenizer.convert_tokens_to_ids("end")] = 1.0
    built.asks((0, 0), "position", "position", back(70, 2))
    built.writes((0, 0), "token", "two_before", copy)
    built.asks(LAST, "position", "token", end)
    built.writes(LAST, "token", "other", copy)
    built.asks(AHEAD, "token", "two_before", torch.eye(len(tokenizer)))
    built.writes(AHEAD, "token", "ahead", copy)
    built.asks(NEXT, "position", "position", back(70, 1))
    built.writes(NEXT, "ahead", "output", copy)
    for head in ((0, 0), LAST, AHEAD, NEXT):
        built.rests(head, 0.5)
    return built.model(tokenizer)


def circuit() -> HookedModel:
    return HookedModel(induction_circuit(d_vocab=128, n_ctx=80), name="circuit")


def test_a_token_head_looks_at_the_next_token_and_makes_it_likely():
    scores = score_heads(circuit(), scores=[TokenMatching(n_prompts=8), TokenCopying(n_prompts=8)])
    assert scores["token_matching"][INDUCTION] > 0.999 and abs(scores["token_matching"][PREVIOUS_TOKEN]) < 1e-3
    copying = scores["token_copying"]
    assert copying[INDUCTION] == pytest.approx(1 - 1 / 128, abs=1e-4)  # from an even guess to certainty
    assert copying.flatten().topk(2).values[1] < 1e-4
    assert scores.standard_errors["token_copying"][INDUCTION] < 1e-5


def test_a_concept_head_looks_at_a_word_s_end_and_makes_its_second_token_likely():
    asked = [ConceptMatching(n_prompts=8, entities=ENTITIES), ConceptCopying(n_prompts=8, entities=ENTITIES)]
    model = concept_model()
    scores = score_heads(model, scores=[*asked, TokenCopying(n_prompts=8)])
    assert scores["concept_matching"][LAST] > 0.999 and scores["concept_matching"][0, 0] < 1e-3
    assert scores["concept_copying"][AHEAD] == pytest.approx(1 - 1 / model.d_vocab, abs=1e-4)
    assert scores["concept_copying"][LAST] == pytest.approx(0, abs=1e-4)  # looks there, but says nothing
    assert scores["token_copying"][AHEAD] == pytest.approx(0, abs=1e-4)  # nothing is said of the next token


def test_a_token_head_carries_no_concept():
    tokenizer = concept_model().tokenizer
    model = HookedModel(induction_circuit(d_vocab=len(tokenizer), n_ctx=80), tokenizer, name="circuit")
    scores = score_heads(model, scores=[ConceptCopying(n_prompts=8, entities=ENTITIES), TokenCopying(n_prompts=8)])
    assert scores["token_copying"][INDUCTION] > 0.98
    assert scores["concept_copying"].abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neo"])
def test_matching_is_what_the_matrices_say(family):
    model, score = model_of(family), TokenMatching(n_prompts=8)
    prompts = score.own_prompts(model)
    found = score_heads(model, scores=[score])["token_matching"]
    for layer in range(model.n_layers):
        values = []
        for row, n, (first, _) in zip(prompts.tokens, prompts.real_lengths, prompts.marks, strict=True):
            acts = capture(model, row[None, :n], ["pattern", "v"], layers=layer)
            pattern, v = acts["pattern", layer][0, :, -1], acts["v", layer][0]
            v = v.repeat_interleave(model.n_heads // v.shape[1], 1)
            W_O = model.anatomy.projection(layer, "o")[0]
            if (norm := model.anatomy.norm_after(layer)) is not None:  # its gains stretch what is written
                W_O = W_O * (1 + norm.weight)
            moved = pattern * torch.einsum("khd,hdm->hkm", v, W_O.detach()).norm(dim=-1)
            values.append(moved[:, first] / moved.sum(-1))
        torch.testing.assert_close(found[layer], torch.stack(values).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom", "small"])
def test_copying_is_what_patching_one_head_by_hooks_does(family):
    model = circuit() if family == "small" else model_of(family)
    score = TokenCopying(n_prompts=4)
    found = score.measure(model, seed=3)
    for i, part in enumerate(score.parts(model, seed=3)):
        clean, corrupt = (torch.tensor([row]) for row in _prompts(part))
        own, other = z_of(model, corrupt), z_of(model, clean)
        before = model.logits(corrupt)[0, -2].softmax(-1)[part.entity[0]]
        for layer, head in ((0, 0), (1, 1)):
            z = own[layer][:, :, head].clone()
            z[:, -2] = other[layer][:, -2, head]
            after = with_z(model, corrupt, {(layer, head): z})[0, -2].softmax(-1)[part.entity[0]]
            torch.testing.assert_close(found[i, layer, head], after - before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("entities", [None, ENTITIES])
def test_prompts_are_copies_and_nothing_else_recurs(entities):
    model = concept_model()
    for part in copied(model, n_prompts=8, seed=1, entities=entities):
        clean, corrupt = _prompts(part)
        n = len(part.entity)
        assert len(clean) == len(corrupt) == 1 + CONTEXT + 1 + CONTEXT - n + 1
        first, second = clean[1 : CONTEXT + 1], clean[CONTEXT + 2 :]
        assert first[: len(second)] == second and first[-n:] == part.entity
        assert corrupt[CONTEXT + 1 :] == clean[CONTEXT + 1 :] and not set(corrupt[1 : CONTEXT + 1]) & set(clean[1:])
        assert len({*part.others, *part.entity, *part.newline}) == len(part.others) + n + len(part.newline)


def test_every_length_has_a_quarter_of_the_prompts_and_marks_the_entity(smollm2):
    for score in (TokenMatching(n_prompts=16), ConceptMatching(n_prompts=16)):
        prompts = score.own_prompts(smollm2, seed=2)
        assert ((prompts.marks[:, 1] - prompts.marks[:, 0] + 1).bincount() == torch.tensor([0, 0, 4, 4, 4, 4])).all()
        before = prompts.marks[:, 0] - 1  # tokens of r1
        assert 15 <= before.min() and before.max() <= 28
        for row, n, (start, _), size in zip(prompts.tokens, prompts.real_lengths, prompts.marks, before, strict=True):
            assert row[n - size : n].tolist() == row[1:start].tolist()
            assert smollm2.tokenizer.decode(row[n - size - 1]) == "\n"
    names = {f" {name}" for kind in load_words("entities").values() for name in kind}
    for row, (start, end) in zip(prompts.tokens, prompts.marks, strict=True):
        assert smollm2.tokenizer.decode(row[start : end + 1]) in names


@pytest.mark.parametrize("score", [ConceptMatching(), ConceptCopying()])
def test_without_a_tokenizer_there_are_no_words(score):
    with pytest.raises(ValueError, match=f"{score.name}: whole words are wanted, and the model has no tokenizer"):
        score_heads(circuit(), scores=[score])


def test_words_of_every_length_are_wanted():
    with pytest.raises(ValueError, match="none of 2 words has 4 tokens here"):
        score_heads(concept_model(), scores=[ConceptMatching(entities=["blue end", "blue red end"])])


@pytest.mark.parametrize("score", ["token_matching", "token_copying"])
def test_models_too_small_for_the_prompts_are_refused(score):
    with pytest.raises(ValueError, match="71 distinct tokens are wanted, the vocabulary has 39"):
        score_heads(HookedModel(induction_circuit(d_vocab=40, n_ctx=80)), scores=score)
    with pytest.raises(ValueError, match="the model's context holds 40"):
        score_heads(HookedModel(induction_circuit(d_vocab=128, n_ctx=40)), scores=score)


def test_layers_of_hybrids_that_do_not_attend_are_left_out():
    torch.manual_seed(0)
    config = hf.Lfm2Config(**LLAMA_LIKE, layer_types=["conv", "full_attention"])
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    scores = score_heads(model, scores=[TokenMatching(n_prompts=4), TokenCopying(n_prompts=4)])
    assert scores.layers == [1] and scores["token_copying"][0].isnan().all()


def test_the_bundled_model_has_token_heads():
    scores = score_heads(load_model(), scores=[TokenMatching(n_prompts=16), TokenCopying(n_prompts=4)])
    best = {head for head, _ in scores.top("token_matching", 2)}
    assert all(head.layer == 1 for head in best) and scores.top("token_copying", 1)[0][0].layer == 1
