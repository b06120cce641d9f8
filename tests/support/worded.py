"""Small models that read words: a tokenizer with a token for every word, and no others."""

from pathlib import Path

import torch
import transformers as hf
from families import LLAMA_LIKE
from tokenizers import Tokenizer, models, pre_tokenizers

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel

BOS, UNKNOWN = "[BOS]", "[?]"


def tokenizer_of(*texts: str):
    """Every word of the texts is a token, in the order of the alphabet; BOS is 0."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([BOS, UNKNOWN, *words])}, UNKNOWN))
    tokenizer.pre_tokenizer = split
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, unk_token=UNKNOWN)


def worded_folder(data: Path, folder: Path, *, seed: int = 0) -> Path:
    """A random model that knows every word of a file, as a folder."""
    tokenizer = tokenizer_of(data.read_text())
    _network(len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SAID = (
    "the red fox saw the red dog and the red fox ran home to the red barn",
    "a bird and a bird sang and a bird",
    "one two three one two three one two",
)


def worded(network: str = "llama", *, n_other_words: int = 60) -> HookedModel:
    """A random model that knows the words of `SAID`, and some others; `own` is attention only."""
    tokenizer = tokenizer_of(*SAID, " ".join(f"word{i}" for i in range(n_other_words)))
    if network == "own":
        config = AttentionOnlyConfig(d_vocab=len(tokenizer), n_ctx=128)
        return HookedModel(AttentionOnlyTransformer(config, seed=3), tokenizer, name="own")
    return HookedModel(_network(len(tokenizer), seed=0), tokenizer, name="worded")


def _network(d_vocab: int, *, seed: int):
    torch.manual_seed(seed)
    config = hf.LlamaConfig(**{**LLAMA_LIKE, "vocab_size": d_vocab, "head_dim": 12, "bos_token_id": 0})
    network = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 1.0 if "embed" in name else 0.25)
    return network
