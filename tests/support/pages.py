"""Reports to look at in tests, and a model whose name and tokens are hostile."""

import torch

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel, Trajectory
from induction_lab.development.rows import Rows

HOSTILE = "<script>document.title='taken'</script>"


class HostileTokenizer:
    """Each character a token; every token reads as markup."""

    all_special_ids = (0,)

    def __len__(self):
        return 60

    def __call__(self, text, **_):
        return {"input_ids": [1 + ord(character) % 59 for character in text]}

    def decode(self, ids):
        return f"<img src=x onerror=\"document.title='{ids[0]}'\">&lt;%{{x}}" if ids[0] % 3 else f"</script>{HOSTILE}"

    def convert_ids_to_tokens(self, token):
        return str(token)

    def get_vocab(self):
        return {str(i): i for i in range(60)}


def hostile_model() -> HookedModel:
    """Random, one layer deeper than the bundled one."""
    network = AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=3, n_heads=2, d_vocab=60, n_ctx=101), seed=5)
    return HookedModel(network, HostileTokenizer(), name=HOSTILE)


def trajectory(name: str, steps=(0, 10, 100)) -> Trajectory:
    """Of two layers of four heads; at step n every head scores as its number says, times the step's place."""
    parts = []
    for place, step in enumerate(steps):
        rows = Rows(name, step)
        values = torch.arange(8.0).view(2, 4) / 8 * place / (len(steps) - 1)
        rows.add_heads("period 20", "prefix_matching", values)
        rows.add_heads("weights", "ov_copying", -values)
        rows.add_indexed("period 20", "loss_by_copy", torch.tensor([1, 2]), torch.tensor([5.0, 5.0 - 2 * place]))
        rows.add_one("texts", "mean_loss", 4.0 - place)
        parts.append(rows.table())
    import pandas as pd

    return Trajectory(pd.concat(parts, ignore_index=True))
