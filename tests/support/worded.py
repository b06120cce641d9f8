"""Small models that read words: a tokenizer with a token for every word, and no others."""

from pathlib import Path

import torch
import transformers as hf
from families import LLAMA_LIKE
from tokenizers import Tokenizer, models, pre_tokenizers

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
    torch.manual_seed(seed)
    config = hf.LlamaConfig(**{**LLAMA_LIKE, "vocab_size": len(tokenizer), "head_dim": 12, "bos_token_id": 0})
    network = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 1.0 if "embed" in name else 0.25)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
