import pytest
import transformers as hf

from induction_lab.sweeps.estimates import LOADED, Estimates
from induction_lab.sweeps.plan_file import load_sweep_plan


@pytest.mark.parametrize("d_vocab", [100, 5000])
def test_memory_counts_the_vectors_of_the_vocabulary_that_weights_are_compared_with(tmp_path, d_vocab):
    """Their rows, the rows that the unembedding reads by, and a copy on the way: float32 whatever the model is."""
    config = hf.LlamaConfig(
        vocab_size=d_vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    hf.LlamaForCausalLM(config).half().save_pretrained(tmp_path / "model")
    asked = {"models": [str(tmp_path / "model")], "prompts": {"short": {"period": 8}}, "measurements": ["head_scores"]}
    n = sum(parameter.numel() for parameter in hf.LlamaForCausalLM(config).parameters())
    need = Estimates().need(load_sweep_plan({**asked, "dtype": "float16"}).cells()[0])
    assert need.parameters == n
    assert need.memory == int(LOADED + 1.2 * 2 * n + 3 * 4 * d_vocab * 16)
