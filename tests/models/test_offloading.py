"""Models whose weights stay on disk: the numbers are those of the model in memory, and each weight is read once."""

import json
import subprocess
import sys

import pytest
import torch
import transformers as hf
from families import INTERFACE, LLAMA_LIKE, WINDOW, random_network

from induction_lab import (
    ablate,
    ablation_sweep,
    capture,
    explain,
    find_circuit,
    load_model,
    ov_copying,
    patch_paths,
    repeated_tokens,
    score_heads,
    stream_rows,
    write_report,
)
from induction_lab.behaviour.losses import losses_on
from induction_lab.internals.side_by_side import side_by_side
from induction_lab.models.on_disk.offloading import offloading_of
from induction_lab.models.wiring.block_by_block import BlockByBlock
from induction_lab.models.wiring.network import Wiring

ATTENTION = ["prefix_matching", "previous_token", "induction_stripe"]


def saved(folder, family, stored=torch.bfloat16):
    random_network(family).to(stored).save_pretrained(folder)
    return folder


@pytest.fixture
def both(tmp_path):
    """A Llama stored in bfloat16, computing in float32: in memory, and on disk."""
    folder = saved(tmp_path / "llama", "llama")
    return load_model(folder), load_model(folder, offload=True)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("family", INTERFACE)
def test_every_score_and_the_loss_are_those_of_the_model_in_memory(tmp_path, family, dtype):
    folder = saved(tmp_path / family, family, torch.float32 if (family, dtype) == ("opt", "auto") else torch.bfloat16)
    usual, kept = load_model(folder, dtype=dtype), load_model(folder, dtype=dtype, offload=True)
    assert (kept.dtype, kept.device, kept.d_vocab) == (usual.dtype, usual.device, usual.d_vocab)
    prompts = repeated_tokens(usual, n_prompts=5, period=9)
    one, other = (score_heads(model, prompts, batch_size=2, chance_test=True) for model in (usual, kept))
    assert one.scores == other.scores and one.provenance["left_out"] == other.provenance["left_out"]
    for name in one.scores:
        torch.testing.assert_close(other[name], one[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(other.standard_errors[name], one.standard_errors[name], atol=1e-6, rtol=0)
    assert one.loss == other.loss and one.loss_by_copy == other.loss_by_copy
    torch.testing.assert_close(losses_on(kept, prompts), losses_on(usual, prompts), atol=1e-5, rtol=0, equal_nan=True)
    assert one.provenance["weights_sha256"] == other.provenance["weights_sha256"]
    one, other = (score_heads(model, prompts, scores="prefix_matching", weigh="values") for model in (usual, kept))
    torch.testing.assert_close(other["prefix_matching"], one["prefix_matching"], atol=1e-6, rtol=0)


@pytest.fixture
def deep(tmp_path):
    """Folders of models of several layers, stored in bfloat16."""
    configs = {
        "llama": hf.LlamaConfig(**{**LLAMA_LIKE, "num_hidden_layers": 5}),
        "gpt2": hf.GPT2Config(vocab_size=300, n_positions=256, n_embd=48, n_layer=5, n_head=4),
        "gemma3": hf.Gemma3TextConfig(**{**LLAMA_LIKE, "num_hidden_layers": 5, "head_dim": 12}, sliding_window=WINDOW),
    }

    def saved_deep(family):
        network = hf.AutoModelForCausalLM.from_config(configs[family], dtype=torch.bfloat16)
        network.save_pretrained(tmp_path / family)
        return tmp_path / family

    return saved_deep


def readings(model):
    """How often each matrix is made, counted as it happens."""
    offloading = offloading_of(model.network)
    names = {stored.data_ptr(): name for name, stored in model.network.named_parameters() if stored.ndim == 2}
    made, count = offloading._converted, dict.fromkeys(names.values(), 0)

    def counted(stored):
        count[names[stored.data_ptr()]] += 1
        return made(stored)

    offloading._converted = counted
    return count


def is_block(name):
    return any(part.isdigit() for part in name.split("."))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_each_weight_is_read_once_however_many_prompts_there_are(deep, family):
    model = load_model(deep(family), offload=True)
    offloading, count = offloading_of(model.network), readings(model)
    prompts = repeated_tokens(model, n_prompts=7, period=9)
    score_heads(model, prompts, scores=ATTENTION, batch_size=2, chance_test=True)
    read = {name: times for name, times in count.items() if is_block(name) or "lm_head" in name}
    assert set(read.values()) == {1}
    assert offloading.bytes_read == offloading.bytes
    losses_on(model, prompts)
    assert offloading.bytes_read == 2 * offloading.bytes


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_every_score_together_reads_each_block_once_but_the_first_of_its_kind(deep, family):
    model = load_model(deep(family), offload=True)
    count = readings(model)
    found = score_heads(model, repeated_tokens(model, n_prompts=7, period=9), batch_size=2)
    assert {"copying", "logit_attribution", "ov_copying"} <= set(found.scores)
    assert {times for name, times in count.items() if is_block(name) and ".0." not in name} == {1}
    assert max(count.values()) <= 4
    before = dict(count)
    score_heads(model, repeated_tokens(model, n_prompts=2, period=9), scores=ATTENTION, weigh="values")
    assert {times - before[name] for name, times in count.items() if is_block(name) and ".0." not in name} == {1}


@pytest.mark.parametrize("family", INTERFACE)
def test_parts_found_block_by_block_are_those_found_together(tmp_path, family):
    folder = saved(tmp_path / family, family)
    anatomies = [load_model(folder, offload=offload).anatomy for offload in (False, True)]
    wirings = [anatomy._wiring for anatomy in anatomies]
    assert [type(wiring) for wiring in wirings] == [Wiring, BlockByBlock]
    names = [{module: name for name, module in anatomy.network.named_modules()} for anatomy in anatomies]

    def said(of, layer):
        parts = wirings[of].layers[layer]
        words = str([names[of].get(each, each) for each in (parts.norm_before, parts.norm_after)])
        made = {name: (names[of][each.module], each.layout) for name, each in parts.projections.items()}
        norms = {name: names[of].get(norm) for name, norm in parts.head_norms.items()}
        return words, made, norms, parts.has_mlp, parts.gated, parts.width, str(parts.apart)

    assert anatomies[0].attending == anatomies[1].attending
    assert [said(0, layer) for layer in wirings[0].layers] == [said(1, layer) for layer in wirings[1].layers]
    assert names[0][wirings[0].final_norm] == names[1][wirings[1].final_norm]


def test_a_layer_that_is_not_like_the_first_is_refused_by_name_when_it_is_read(deep):
    model = load_model(deep("llama"), offload=True)
    prompts = repeated_tokens(model, n_prompts=2, period=9)
    rounding = model.network.model.layers[3].self_attn.o_proj
    rounding.forward = lambda x: torch.nn.functional.linear(x, rounding.weight).round(decimals=1)
    with pytest.raises(ValueError, match="the projection of o in layer 3 .* does not multiply what it reads"):
        score_heads(model, prompts, scores=["logit_attribution"])
    model = load_model(deep("llama"), offload=True)
    model.network.model.layers[2].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ValueError, match="Layer 2 of llama has the same modules as others .* does not attend"):
        model.anatomy.projection(2, "o")


def test_between_runs_weights_are_what_the_files_say_and_take_no_memory(both):
    usual, kept = both
    score_heads(kept, repeated_tokens(kept, n_prompts=3, period=9), scores=ATTENTION)
    for (name, weight), there in zip(kept.network.named_parameters(), usual.network.parameters(), strict=True):
        assert torch.equal(weight.float(), there), name
        assert weight.dtype == (torch.bfloat16 if weight.ndim == 2 else torch.float32), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "gemma"])
def test_what_runs_once_is_to_be_had_as_it_is_of_a_model_in_memory(tmp_path, family):
    folder = saved(tmp_path / family, family)
    usual, kept = load_model(folder), load_model(folder, offload=True)
    tokens = repeated_tokens(usual, n_prompts=2, period=9).tokens
    torch.testing.assert_close(kept.logits(tokens), usual.logits(tokens), atol=0, rtol=0)
    with ablate(usual, ["L1H1"]), ablate(kept, ["L1H1"]):
        torch.testing.assert_close(kept.logits(tokens), usual.logits(tokens), atol=0, rtol=0)
    for name in ("q", "pattern", "resid_pre"):
        one, other = (capture(model, tokens, name, layers=1)[name, 1] for model in (usual, kept))
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
    torch.testing.assert_close(stream_rows(kept), stream_rows(usual), atol=0, rtol=0)
    for source in ("embedding", "effective"):
        one, other = (ov_copying(model, source=source) for model in (usual, kept))
        torch.testing.assert_close(other, one, atol=1e-6, rtol=0)


def test_what_needs_all_weights_many_times_is_refused_with_what_it_would_read(both, tmp_path):
    model = both[1]
    prompts = repeated_tokens(model, n_prompts=2, period=9)
    for ask in (
        lambda: ablation_sweep(model, prompts),
        lambda: explain(model, prompts),
        lambda: find_circuit(model, prompts),
        lambda: patch_paths(model, prompts, ["L1H0"]),
        lambda: write_report(model, tmp_path / "report.html"),
    ):
        with pytest.raises(ValueError, match=r"on disk \(offload\): 0.000112 GB are read each time. Load it without"):
            ask()


def test_a_job_that_fails_ends_the_others_and_the_model_goes_on(both):
    usual, kept = both
    tokens = repeated_tokens(kept, n_prompts=2, period=9).tokens

    def fails():
        kept.hidden(tokens)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(side_by_side(kept, [lambda: kept.hidden(tokens), fails, lambda: kept.logits(tokens)]))
    again = list(side_by_side(kept, [lambda: kept.hidden(tokens), lambda: kept.logits(tokens)]))
    torch.testing.assert_close(again[1], usual.logits(tokens), atol=1e-5, rtol=0)


def test_a_model_that_is_not_causal_is_refused_when_it_is_first_run(tmp_path):
    sizes = dict(vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    hf.BertLMHeadModel(hf.BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="not causal|attends to later tokens"):
        model = load_model(tmp_path / "bert", offload=True)
        score_heads(model, repeated_tokens(model, n_prompts=2, period=9), scores=ATTENTION)


def test_what_cannot_stay_on_disk_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="are read for the CPU, got device 'cuda'"):
        load_model(tmp_path, device="cuda", offload=True)
    with pytest.raises(ValueError, match="induction-2l is small: load it without offload"):
        load_model("induction-2l", offload=True)
    with pytest.raises(ValueError, match="read through TransformerLens' hooks.* Load it without offload"):
        load_model(saved(tmp_path / "gptj", "gptj"), offload=True)
    folder = saved(tmp_path / "llama", "llama", torch.float32)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))  # not what is in the file
    with pytest.raises(ValueError, match="in the form that the network has them; these are not"):
        load_model(folder, offload=True)


def test_the_command_scores_a_model_on_disk(tmp_path, command):
    saved(tmp_path / "llama", "llama")
    asked = ["score", "llama", "--prompts", "2", "--period", "9", "--no-figures"]
    assert command(*asked, "--offload", "--out", "disk")[0] == 0
    assert command(*asked, "--out", "memory")[0] == 0
    assert (tmp_path / "disk" / "llama.csv").read_text() == (tmp_path / "memory" / "llama.csv").read_text()


PEAK = """
import sys
from pathlib import Path
from induction_lab import load_model, repeated_tokens, score_heads

def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)

model = load_model("induction-2l")
score_heads(model, repeated_tokens(model, n_prompts=2, period=9), scores=["prefix_matching"])
import transformers.models.llama.modeling_llama
before = peak()
model = load_model(sys.argv[1], offload=True)
score_heads(model, repeated_tokens(model, n_prompts=2, period=9), scores=["prefix_matching"])
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much memory was used at most")
def test_memory_holds_a_block_and_not_the_model(tmp_path):
    shape = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=40, vocab_size=1000)
    config = hf.LlamaConfig(**shape, num_attention_heads=8)
    hf.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "deep")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "deep")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # MB; 336 in the file, 672 in float32, of which a block has 17
