"""Heads that carry a task, by hand and by hooks; the prompts that they are tried on."""

from functools import cache

import pytest
import torch
from by_hand import with_z, z_of
from families import random_network
from hand_built import HandBuilt, back, but_first
from worded import tokenizer_of

from induction_lab import HookedModel, load_model, score_heads
from induction_lab.data.word_lists import load_words
from induction_lab.scores.kinds.function_vectors import SHOTS, FunctionVector

TASKS = {name: [(f"{name}{i}", f"{name.upper()}{i}") for i in range(24)] for name in ("a", "b")}
MATCHES, CARRIES, DOES = (0, 0), (1, 0), (2, 0)


def tokenizer():
    return tokenizer_of("Q: A:", " ".join(word for pairs in TASKS.values() for pair in pairs for word in pair))


@cache
def task_model() -> HookedModel:
    """`MATCHES` marks answers that are right, `CARRIES` brings that to the end, `DOES` answers where it was brought.

    A token for every word, so that an answer stands three behind its question, and the last token two.
    """
    words = tokenizer()
    built = HandBuilt(n_layers=3, n_heads=1, d_vocab=len(words), n_ctx=70, right=1, task=1)
    answers, n = torch.zeros(len(words), len(words)), len(words)
    for question, answer in (pair for pairs in TASKS.values() for pair in pairs):
        answers[words.convert_tokens_to_ids(question), words.convert_tokens_to_ids(answer)] = 1.0
    word = torch.ones(n, 1)
    word[0] = 0.0  # BOS
    built.asks(MATCHES, "token", "token", answers.T)
    built.asks(MATCHES, "position", "position", back(70, 3), at=n)
    built.rests(MATCHES, 1.5)  # both or nothing
    built.writes(MATCHES, "token", "right", word)
    built.asks(CARRIES, "position", "right", torch.ones(70, 1))
    built.rests(CARRIES, 0.5)
    built.writes(CARRIES, "right", "task", torch.ones(1, 1))
    built.asks(DOES, "position", "position", back(70, 2))
    layer = built.layers[2]
    layer.W_Q[0, built.parts["task"], 70] = 40.0 * layer.config.d_head**0.5
    layer.W_K[0, built.parts["token"], 70] = word[:, 0]
    built.rests(DOES, 1.5)
    built.writes(DOES, "token", "output", but_first(n) @ answers)
    return built.model(words)


def test_the_head_that_carries_the_task_makes_the_answer_likely_and_no_other_head_does():
    model = task_model()
    scores = score_heads(model, scores=[FunctionVector(tasks=TASKS, n_prompts=3)])
    found = scores["function_vector"]
    assert found[CARRIES] == pytest.approx(1 - 1 / model.d_vocab, abs=1e-4)
    assert abs(found[MATCHES]) < 1e-4
    assert abs(found[DOES]) < 0.01  # it says what was right elsewhere
    assert scores.standard_errors["function_vector"][CARRIES] < 1e-5


def test_it_is_what_putting_a_mean_into_one_head_by_hooks_does():
    network = random_network("llama")
    model, plain = HookedModel(network, tokenizer(), name="llama"), HookedModel(network, name="llama")
    score = FunctionVector(tasks=TASKS, n_prompts=2)
    found = score.measure(model, seed=1)
    assert found.shape == (2, model.n_layers, model.n_heads)
    for values, task in zip(found, score.prompts(model, seed=1).values(), strict=True):
        every = z_of(plain, task.right.tokens)
        for layer, head in ((0, 1), (1, 3)):
            last = every[layer][:, -1, head]
            rises = []
            for row, (answer,) in zip(task.shuffled.tokens, task.shuffled.marks, strict=True):
                z = z_of(plain, row[None])[layer][:, :, head].clone()
                z[:, -1] = last.mean(0)
                after = with_z(plain, row[None], {(layer, head): z})[0, -1].softmax(-1)[answer]
                rises.append(after - model.logits(row[None])[0, -1].softmax(-1)[answer])
            torch.testing.assert_close(values[layer, head], torch.stack(rises).mean(), atol=1e-6, rtol=1e-3)


def test_examples_are_right_or_all_wrong_and_of_other_pairs_than_the_means(smollm2):
    decode, pairs = smollm2.tokenizer.decode, {name: dict(task) for name, task in load_words("tasks").items()}
    made = FunctionVector(n_prompts=3).prompts(smollm2, seed=5)
    assert set(made) == set(pairs)
    for name, task in made.items():
        asked = []
        for prompts, right in ((task.right, SHOTS), (task.shuffled, 0)):
            questions = set()
            for row, n, (token,) in zip(prompts.tokens, prompts.real_lengths, prompts.marks, strict=True):
                blocks = decode(row[1:n]).split("\n\n")
                shots = [block.removeprefix("Q: ").split("\nA: ") for block in blocks[:-1]]
                question = blocks[-1].removeprefix("Q: ").removesuffix("\nA:")
                assert sum(pairs[name][x] == y for x, y in shots) == right
                assert len({question, *(x for x, _ in shots)}) == SHOTS + 1
                assert f" {pairs[name][question]}".startswith(decode(token))
                questions |= {question, *(x for x, _ in shots)}
            asked.append(questions)
        assert not asked[0] & asked[1]


def test_tasks_are_many_pairs_each_question_once():
    tasks = load_words("tasks")
    assert len(tasks) >= 8
    for pairs in tasks.values():
        assert len(pairs) >= 40 and len({x for x, _ in pairs}) == len(pairs) and all(x != y for x, y in pairs)


def test_without_a_tokenizer_or_with_too_few_pairs_it_is_refused():
    with pytest.raises(ValueError, match="function_vector: tasks are words, and the model has no tokenizer"):
        score_heads(load_model(), scores="function_vector")
    with pytest.raises(ValueError, match="task 'a' has 20 pairs; 22 are needed"):
        score_heads(task_model(), scores=[FunctionVector(tasks={"a": TASKS["a"][:20]})])
