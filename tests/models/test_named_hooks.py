"""A hook that is not there is refused by name, on networks of ours and on bridges of transformers' networks."""

import re

import pytest
import torch

from induction_lab import capture, load_model


@pytest.fixture(params=["bundled", "llama"])
def hooked(request):
    return request.getfixturevalue(request.param).hooked


TOKENS = torch.tensor([[0, 5, 9, 5, 9]])
WRONG, MEANT = "blocks.0.attn.hook_patern", "blocks.0.attn.hook_pattern"


def keep(tensor, hook):
    return tensor


@pytest.mark.parametrize(
    "ask",
    [
        lambda hooked: hooked.run_with_hooks(TOKENS, fwd_hooks=[(MEANT, keep), (WRONG, keep)]),
        lambda hooked: hooked.run_with_hooks(TOKENS, bwd_hooks=[(WRONG, keep)], reset_hooks_end=False),
        lambda hooked: hooked.hooks(fwd_hooks=[(WRONG, keep)]).__enter__(),
        lambda hooked: hooked.add_hook(WRONG, keep),
        lambda hooked: hooked.run_with_cache(TOKENS, names_filter=WRONG),
        lambda hooked: hooked.run_with_cache(TOKENS, names_filter=[WRONG, "hook_x"]),
        lambda hooked: hooked.run_with_cache(TOKENS)[1][WRONG],
        lambda hooked: hooked.run_with_cache(TOKENS)[1]["patern", 0],
    ],
)
def test_the_nearest_hook_is_named_and_what_there_is(hooked, ask):
    with pytest.raises(ValueError, match="There is no (hook|activation) ") as raised:
        ask(hooked)
    assert isinstance(raised.value, KeyError) and f"Did you mean {MEANT}?" in str(raised.value)
    assert re.search(r"There are, .*blocks.LAYER.attn: [^;]*hook_z", str(raised.value))
    with torch.no_grad():  # nothing is left behind
        torch.testing.assert_close(hooked(TOKENS), hooked.run_with_hooks(TOKENS, fwd_hooks=[]))


def test_hooks_that_are_there_run_and_what_a_hook_raises_is_its_own(hooked):
    seen = []
    hooked.run_with_hooks(TOKENS, fwd_hooks=[(MEANT, lambda x, hook: seen.append(x.shape[-1]))])
    with hooked.hooks(fwd_hooks=[(lambda name: name == MEANT, lambda x, hook: seen.append(hook.name))]):
        hooked(TOKENS)
    assert len(seen) == 2 and seen[0] == 5
    _, cache = hooked.run_with_cache(TOKENS, names_filter=[MEANT, "hook_x"])
    assert cache["pattern", 0].shape[-1] == 5 and MEANT in cache.cache_dict

    def fail(tensor, hook):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hooked.run_with_hooks(TOKENS, fwd_hooks=[(MEANT, fail)])


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            ("patern", 1),
            r"\('patern', 1\) was not captured; there is q, pattern of layers 0, 1. Did you mean pattern\?",
        ),
        ("q", r"'q' was not captured; there is q, pattern of layers 0, 1. Say which layer: acts\['q', 0\]."),
        (("q", 7), r"\('q', 7\) was not captured; there is q, pattern of layers 0, 1.$"),
        ("logits", r"'logits' was not captured; there is q, pattern of layers 0, 1.$"),
    ],
)
def test_what_was_not_captured_is_said_with_what_was(key, said):
    acts = capture(load_model(), TOKENS, ["q", "pattern"])
    with pytest.raises(KeyError, match=said):
        acts[key]
