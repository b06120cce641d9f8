"""The kernel that reads pairs: on a GPU where there is one, else by Triton's interpreter where Triton is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here: it comes with PyTorch for GPUs")

CHECK = """
import itertools, torch
from induction_lab.attention.exact import _products
from induction_lab.attention.pairs_on_gpu import pair_scores
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
for dtype, kv_heads, d_key in itertools.product((torch.float32, torch.bfloat16, torch.float16), (1, 2, 6), (5, 64)):
    q = torch.randn(2, 6, 11, d_key, device=device).to(dtype)
    k = torch.randn(2, 11, kv_heads, d_key, device=device).to(dtype).transpose(1, 2)  # heads side by side, as models do
    prompt, query, key = (torch.randint(0, n, (9,), device=device) for n in (2, 11, 11))
    found = pair_scores(q, k, prompt, query, key)
    expected = _products(*(x.cpu() for x in (q, k, prompt, query, key)))
    assert found.dtype == torch.float32 and found.shape == (9, 6)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
assert pair_scores(q, k, prompt[:0], query[:0], key[:0]).shape == (0, 6)
"""


BROKEN = """
import torch, warnings
from induction_lab.attention import pairs_on_gpu
pairs_on_gpu._kernel = None  # as where there is no compiler
with warnings.catch_warnings(record=True) as said:
    assert not pairs_on_gpu.kernel_works(torch.device("cpu")) and not pairs_on_gpu.kernel_works(torch.device("cpu"))
assert len(said) == 1 and "without Triton" in str(said[0].message), said
"""


def test_a_kernel_that_cannot_be_built_is_said_once_and_done_without():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_products_of_pairs_are_those_of_gathered_rows():
    own = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
