import pytest
import torch
from hypothesis import given, settings, strategies as st

from induction_lab.attention.exact import MaterialisedAttention
from induction_lab.attention.hooks import attend, reading
from induction_lab.attention.kernels import attention_with_lse

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def plain(q, k, v, scale, mask=None, softcap=None, sinks=None):
    """Softmax of the whole matrix in float64, key heads copied out: slow and obvious. Returns (z, pattern)."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        extra = sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, extra], -1)
    pattern = scores.softmax(-1).nan_to_num(0.0)[..., : k.shape[2]]
    return pattern @ v, pattern


def random_qkv(batch=2, heads=6, kv_heads=3, n=40, d=16, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, n, d), (batch, kv_heads, n, d), (batch, kv_heads, n, d)]
    return [(2 * torch.randn(shape, generator=generator)).to(device, dtype) for shape in shapes]


def window_mask(n, window, batch=2, pad=0):
    """Boolean, as transformers makes it: causal, at most `window` back, `pad` tokens missing left in prompt 0."""
    distance = torch.arange(n)[:, None] - torch.arange(n)
    mask = ((distance >= 0) & (distance < window)).expand(batch, 1, n, n).clone()
    mask[0, :, :, :pad] = False
    return mask


CASES = {
    "plain": {},
    "window": dict(mask=window_mask(40, 7)),
    "left padding": dict(mask=window_mask(40, 40, pad=5)),
    "additive mask": dict(mask=torch.where(window_mask(40, 9), 0.0, -1e9)),
    "soft cap": dict(softcap=1.5),
    "soft cap and window": dict(softcap=1.5, mask=window_mask(40, 7)),
    "sinks": dict(sinks=torch.linspace(-2, 3, 6)),
    "sinks and window": dict(sinks=torch.linspace(-2, 3, 6), mask=window_mask(40, 7)),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_output_and_probabilities_are_those_of_the_softmax_of_the_whole_matrix(case, device):
    extras = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in CASES[case].items()}
    q, k, v = random_qkv(device=device)
    seen = []
    with reading(seen.append):
        z = attend(q, k, v, layer=3, scale=0.25, **extras)
    wanted, pattern = plain(q, k, v, 0.25, **extras)
    rows = pattern.sum(-1) > 0  # a row with nothing to attend to is nobody's
    torch.testing.assert_close(z[rows], wanted[rows].float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[0].pattern()[rows], pattern[rows].float(), atol=2e-6, rtol=1e-5)
    prompt, query, key = torch.randint(2, (500,)), torch.randint(40, (500,)), torch.randint(40, (500,))
    read = seen[0].probabilities(*(x.to(device) for x in (prompt, query, key)))
    torch.testing.assert_close(read, pattern[prompt, :, query, key].float(), atol=2e-6, rtol=1e-5)
    assert seen[0].layer == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("heads", [None, [5, 0, 3], [2]])
@pytest.mark.parametrize("queries", [None, [39, 2, 17], [8]])
@pytest.mark.parametrize("case", [*CASES, "a mask for each head"])
def test_chosen_heads_and_queries_are_cut_from_the_softmax_of_the_whole_matrix(case, heads, queries, device):
    by_head = {"mask": torch.cat([window_mask(40, window) for window in (3, 7, 11, 19, 30, 40)], 1)}
    extras = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in CASES.get(case, by_head).items()}
    q, k, v = random_qkv(device=device)
    seen = []
    with reading(seen.append):
        attend(q, k, v, layer=0, scale=0.25, **extras)
    chosen = {"heads": heads, "queries": queries}
    chosen = {name: None if at is None else torch.tensor(at, device=device) for name, at in chosen.items()}
    head_at, query_at = heads or list(range(6)), queries or list(range(40))
    wanted = plain(q, k, v, 0.25, **extras)[1][:, head_at][:, :, query_at].float()
    rows = wanted.sum(-1) > 0
    pattern, scores = seen[0].pattern(**chosen), seen[0].scores(**chosen)
    assert pattern.shape == scores.shape == wanted.shape
    torch.testing.assert_close(pattern[rows], wanted[rows], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(
        scores.softmax(-1)[rows], (wanted / wanted.sum(-1, keepdim=True))[rows], atol=1e-5, rtol=1e-4
    )  # without the sink, which is no key


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 70), st.sampled_from([4, 8, 32]))
def test_every_shape_is_exact(batch, kv_heads, group, n, d):
    q, k, v = random_qkv(batch, kv_heads * group, kv_heads, n, d)
    z, lse = attention_with_lse(q, k, v, scale=d**-0.5)
    wanted, pattern = plain(q, k, v, d**-0.5)
    torch.testing.assert_close(z, wanted.float(), atol=1e-5, rtol=1e-4)
    own_key = (q.unflatten(1, (kv_heads, group)) * k.unsqueeze(2)).sum(-1).flatten(1, 2) * d**-0.5
    diagonal = pattern.diagonal(dim1=-2, dim2=-1).float()
    torch.testing.assert_close((own_key - lse).exp(), diagonal, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float64, 1e-12)]
)
def test_other_precisions_are_exact_to_their_own_rounding(dtype, tolerance, device):
    q, k, v = random_qkv(dtype=dtype, device=device)
    seen = []
    with reading(seen.append):
        z = attend(q, k, v, layer=0, scale=0.25)
    wanted, pattern = plain(q, k, v, 0.25)
    assert z.dtype == dtype
    torch.testing.assert_close(z.double(), wanted, atol=4 * tolerance, rtol=tolerance)
    at = torch.arange(40, device=device)
    read = seen[0].probabilities(torch.zeros_like(at), at, at)
    diagonal = pattern[0].diagonal(dim1=-2, dim2=-1).T
    torch.testing.assert_close(read.double(), diagonal, atol=tolerance, rtol=tolerance)


def test_values_of_another_width_than_keys_are_served():
    q, k, _ = random_qkv()
    v = torch.randn(2, 3, 40, 5)
    torch.testing.assert_close(
        attend(q, k, v, layer=0, scale=0.25), plain(q, k, v, 0.25)[0].float(), atol=1e-5, rtol=1e-5
    )


def test_strided_inputs_are_served():
    q, k, v = (x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in random_qkv())
    assert q.stride(-1) != 1
    torch.testing.assert_close(
        attend(q, k, v, layer=0, scale=0.25), plain(q, k, v, 0.25)[0].float(), atol=1e-5, rtol=1e-5
    )


def test_keys_after_the_query_have_no_probability():
    q, k, v = random_qkv()
    seen = []
    with reading(seen.append):
        attend(q, k, v, layer=0, scale=0.25)
    zero, early, late = torch.zeros(3, dtype=torch.long), torch.tensor([0, 3, 20]), torch.tensor([1, 39, 21])
    assert (seen[0].probabilities(zero, early, late) == 0).all()


def test_gradients_flow_as_through_plain_attention():
    q, k, v = (x.requires_grad_() for x in random_qkv())
    attend(q, k, v, layer=0, scale=0.25).square().sum().backward()
    got = [x.grad.clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    plain(q, k, v, 0.25)[0].square().sum().backward()
    for mine, x in zip(got, (q, k, v), strict=True):
        torch.testing.assert_close(mine, x.grad, atol=1e-4, rtol=1e-3)


def test_nobody_reads_outside_the_context_also_after_an_error():
    q, k, v = random_qkv()
    seen = []
    with pytest.raises(RuntimeError, match="stop"), reading(seen.append):
        raise RuntimeError("stop")
    attend(q, k, v, layer=0, scale=0.25)
    assert seen == []


def test_a_matrix_that_a_model_built_reads_alike():
    q, k, v = random_qkv()
    z, pattern = plain(q, k, v, 0.25)
    built = MaterialisedAttention(0, pattern.float(), v, z.float())
    at = torch.tensor([0, 1, 1]), torch.tensor([5, 6, 39]), torch.tensor([5, 2, 0])
    torch.testing.assert_close(built.probabilities(*at), pattern[at[0], :, at[1], at[2]].float())
    heads, queries = torch.tensor([4, 1]), torch.tensor([3, 39, 9])
    chosen = built.pattern(heads=heads, queries=queries)
    torch.testing.assert_close(chosen, pattern[:, heads][:, :, queries].float())
