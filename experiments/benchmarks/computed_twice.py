"""What does each command compute more than once, in token-layers?

    python -m experiments computed_twice                                  # both models, every command
    python -m experiments computed_twice --model induction-2l --command explain

A token-layer is one token that enters one layer, in whatever a command runs; unembedded tokens are those whose logits
are made. A row of a batch is computed again where what enters and leaves the layer is that of an earlier row: both are
compared by 16 random projections of the stream, each position scaled to length 1, so that runs in which a head is
changed differ. Beside that: how many layers' weights have their norms folded in, and how many of them again. Commands
run on 4 or 8 prompts of 2 x 50 tokens. Adds its rows to computed_twice.csv beside this file, or replaces them. About 10
minutes.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor

from experiments.harness import put_row, show_files, show_line
from induction_lab import (
    HookedModel,
    classify_heads,
    explain,
    find_circuit,
    follow_training,
    induction_activity,
    load_model,
    repeated_tokens,
    score_heads,
    write_report,
)
from induction_lab.weights import folded

HERE = Path(__file__).parent
MODELS = ("induction-2l", "smollm2-135m")
TEXT = "Mrs. Tolliver kept bees. Every spring Mrs. Tolliver counted the hives, and Mrs. Tolliver sold the honey."
N_PROJECTIONS, TOLERANCE, NEIGHBOURS = 16, 3e-5, 16


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for name in args.model:
        model = load_model(name)
        _ = model.unembeds_by_parts  # found out once a model
        for command in args.command:
            if command == "activity" and model.tokenizer is None:
                continue
            row = {"command": command, "model": name} | counted(model, COMMANDS[command])
            put_row(args.out, row, by={"model": MODELS, "command": list(COMMANDS)})
            show_line(pd.DataFrame([row]).to_string(index=False))
    show_files([args.out])


class Once:
    """The same weights at every step of a training: what is measured at one checkpoint may not differ at another."""

    name, steps = "one checkpoint", (0,)

    def __init__(self, model: HookedModel) -> None:
        """Of which model."""
        self.at_hand = model

    def model(self, step: int) -> HookedModel:
        """It."""
        return self.at_hand


def _report(model: HookedModel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_report(model, Path(folder) / "report.html", n_prompts=8)


COMMANDS: dict[str, Callable[[HookedModel], object]] = {
    "score": lambda model: score_heads(model, repeated_tokens(model, n_prompts=8, distinct=True), chance_test=True),
    "circuit": lambda model: find_circuit(model, repeated_tokens(model, n_prompts=4)),
    "heads": lambda model: classify_heads(model, causal=False),
    "explain": lambda model: explain(model, repeated_tokens(model, n_prompts=4), n_random=4),
    "report": _report,
    "follow": lambda model: follow_training(Once(model), texts=repeated_tokens(model, n_prompts=8, seed=9)),
    "activity": lambda model: induction_activity(model, TEXT),
}


def counted(model: HookedModel, run: Callable[[HookedModel], object]) -> dict[str, Any]:
    """Thousands of token-layers and unembedded tokens, layers folded; and of each what was there already."""
    layers: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    ends: list[Tensor] = []
    folds: Counter[int] = Counter()
    with watching_layers(model, layers), watching_ends(model, ends), watching_folds(folds):
        run(model)
    computed, again = (
        sum(n_pos * count(torch.cat(rows)) for (_, n_pos), rows in layers.items()) for count in (len, repeated)
    )
    unembedded = torch.cat(ends) if ends else torch.zeros(0, N_PROJECTIONS)
    return {
        "token_layers": round(computed / 1000, 1),
        "again": round(again / 1000, 1),
        "share_again": round(again / max(computed, 1), 3),
        "unembedded": round(len(unembedded) / 1000, 1),
        "unembedded_again": round(repeated(unembedded) / 1000, 1),
        "layers_folded": folds.total(),
        "folded_again": folds.total() - len(folds),
    }


@contextmanager
def watching_layers(model: HookedModel, seen: dict[tuple[int, int], list[Tensor]]) -> Iterator[None]:
    """Keep projections of what enters and leaves every layer that runs, by layer and length, a row a prompt.

    Layers that are left before their end, once their attention was seen, leave nothing.
    """
    places = {block: layer for layer, block in enumerate(model.anatomy.blocks)}
    with ExitStack() as stack:
        for kind in {type(block) for block in places}:
            stack.enter_context(mock.patch.object(kind, "forward", _kept(kind.forward, places, seen)))
        yield


def _kept(forward: Callable[..., Any], places: dict[Any, int], seen: dict[tuple[int, int], list[Tensor]]) -> Any:
    """What a block does, and what enters and leaves it written down."""

    @functools.wraps(forward)
    def run(block: Any, *args: Any, **kwargs: Any) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]
        left = torch.zeros_like(entered)
        try:
            output = forward(block, *args, **kwargs)
            left = output[0] if isinstance(output, tuple) else output
            return output
        finally:
            if block in places:
                both = torch.cat([scaled(entered), scaled(left)], -1)
                seen[places[block], entered.shape[1]].append(projected(both.flatten(1)))

    return run


@contextmanager
def watching_ends(model: HookedModel, seen: list[Tensor]) -> Iterator[None]:
    """Keep projections of every position that is unembedded."""
    unembed, logits = model.anatomy.unembed, model.anatomy.logits

    def parts(hidden: Tensor) -> Tensor:
        seen.append(projected(scaled(hidden).flatten(0, -2)))
        return unembed(hidden)

    def whole(tokens: Tensor) -> Tensor:
        hidden: list[Any] = []
        handle = model.final_norm.register_forward_hook(lambda _, __, output: hidden.append(output))
        try:
            return logits(tokens)
        finally:
            handle.remove()
            seen.extend(projected(scaled(each).flatten(0, -2)) for each in hidden)

    with mock.patch.multiple(model.anatomy, unembed=parts, logits=whole):
        yield


@contextmanager
def watching_folds(seen: Counter[int]) -> Iterator[None]:
    """Count how often the norms of each layer are folded into its weights."""
    make = folded.folded_weights

    def fold(model: HookedModel, layer: int) -> Any:
        seen[layer] += 1
        return make(model, layer)

    with mock.patch.object(folded, "folded_weights", fold):
        yield


def scaled(stream: Tensor) -> Tensor:
    """Each position of length 1."""
    return torch.nn.functional.normalize(stream.detach().float(), dim=-1)


def projected(rows: Tensor) -> Tensor:
    """Each row times random vectors."""
    with torch.inference_mode():
        return rows @ _vectors(rows.shape[1])


@functools.cache
def _vectors(width: int) -> Tensor:
    return torch.randn(width, N_PROJECTIONS, generator=torch.Generator().manual_seed(width))


def repeated(rows: Tensor) -> int:
    """How many rows are like another one that is counted already, to rounding."""
    ordered = rows[rows[:, 0].argsort()]
    again = torch.zeros(len(rows), dtype=torch.bool)
    for apart in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
        again[apart:] |= (ordered[apart:] - ordered[:-apart]).abs().amax(1) < TOLERANCE
    return int(again.sum())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--command", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--out", type=Path, default=HERE / "computed_twice.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
