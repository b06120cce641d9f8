"""Time of a mean-ablation sweep over all heads of SmolLM2-135M, beside what people do today.

    python -m experiments ablation_speed

4 prompts of 2 x 50 random tokens, the loss on the second copy without each of 270 heads, float32, two threads. Rounds
of each way are run right beside one of ours, in turn, so that noise of the machine hits both alike; `ratio` is the
median of ours over theirs, with the lowest and the highest. The plain loop is one full forward pass of transformers a
head (SDPA), a hook on the output projection putting the mean in; TransformerLens is its
`get_act_patch_attn_head_out_all_pos`, means in the place of its clean cache. The floor is the share of the plain loop's
multiplications that a sweep must do which starts each head's run in its own layer and unembeds what the loss reads.
Writes ablation.csv beside this file. About 20 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

from induction_lab import HookedModel, Prompts, ablation_sweep, load_model, repeated_tokens
from induction_lab.behaviour.losses import loss_per_token
from induction_lab.interventions.outputs import clean_run

HERE = Path(__file__).parent
OURS = "induction_lab ablation_sweep"
PLAIN = "plain loop: one full forward a head"
LENS = "TransformerLens get_act_patch_attn_head_out_all_pos"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(2)
    model = load_model("smollm2-135m")
    prompts = repeated_tokens(model, n_prompts=4)
    model.hooked  # noqa: B018  built once, before the clock starts
    ways = {PLAIN: (plain_loop, args.rounds), LENS: (transformer_lens, args.lens_rounds)}
    rows, ours = [], []
    for name, (way, rounds) in ways.items():
        pairs, difference = paired(model, prompts, way, rounds)
        ours += [mine for mine, _ in pairs]
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        rows.append(
            {
                "way": name,
                "seconds": statistics.median(theirs for _, theirs in pairs),
                "ratio": statistics.median(ratios),
                "lowest": ratios[0],
                "highest": ratios[-1],
                "rounds": rounds,
                "max_difference": difference,
            }
        )
    rows.insert(0, {"way": OURS, "seconds": statistics.median(ours), "rounds": len(ours)})
    rows.append({"way": "floor: share of the plain loop's multiplications", "ratio": floor(model, prompts)})
    table = pd.DataFrame(rows).round({"seconds": 1, "ratio": 3, "lowest": 3, "highest": 3, "max_difference": 7})
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def sweep(model: HookedModel, prompts: Prompts) -> Tensor:
    return ablation_sweep(model, prompts).matrix(model.n_layers, model.n_heads, "changed")


def plain_loop(model: HookedModel, prompts: Prompts) -> Tensor:
    means = left_out_means(model, prompts)
    losses = torch.zeros(model.n_layers, model.n_heads)
    for layer, block in enumerate(model.network.model.layers):
        for head in range(model.n_heads):

            def put_in(module, args, layer: int = layer, head: int = head):
                z = args[0].clone()
                z.unflatten(-1, (model.n_heads, -1))[:, :, head] = means[layer][:, head]
                return (z,)

            handle = block.self_attn.o_proj.register_forward_pre_hook(put_in)
            with torch.inference_mode():
                logits = model.network(prompts.tokens.to(model.device), use_cache=False).logits
            handle.remove()
            losses[layer, head] = second_copy(logits, prompts)
    return losses


def transformer_lens(model: HookedModel, prompts: Prompts) -> Tensor:
    means = left_out_means(model, prompts)
    cache = {f"blocks.{layer}.attn.hook_z": z.transpose(1, 2) for layer, z in means.items()}
    with torch.inference_mode():
        return get_act_patch_attn_head_out_all_pos(
            model.hooked,
            prompts.tokens,
            cache,  # type: ignore[arg-type]
            lambda logits: second_copy(logits, prompts),
        ).reshape(model.n_layers, model.n_heads)


def left_out_means(model: HookedModel, prompts: Prompts) -> dict[int, Tensor]:
    """By layer [prompt, head, pos, d_head]: each head's mean over the other prompts."""
    outputs = {layer: seen.z for layer, seen in clean_run(model, prompts.tokens, range(model.n_layers)).items()}
    return {layer: (z.sum(0) - z) / (len(prompts) - 1) for layer, z in outputs.items()}


def second_copy(logits: Tensor, prompts: Prompts) -> Tensor:
    return loss_per_token(logits, prompts.tokens.to(logits.device))[:, 1 + (prompts.period or 0) :].mean()


def paired(
    model: HookedModel, prompts: Prompts, way: Callable[[HookedModel, Prompts], Tensor], rounds: int
) -> tuple[list[tuple[float, float]], float]:
    """Seconds of (ours, theirs), run side by side, first one then the other first; and how far the losses differ."""
    pairs, difference = [], 0.0
    for round_ in range(rounds):
        seconds, losses = {}, {}
        for function in (sweep, way) if round_ % 2 else (way, sweep):
            start = time.perf_counter()
            losses[function] = function(model, prompts)
            seconds[function] = time.perf_counter() - start
        pairs.append((seconds[sweep], seconds[way]))
        difference = max(difference, float((losses[sweep] - losses[way]).abs().max()))
        print(f"{way.__name__}: ours {seconds[sweep]:.1f} s, theirs {seconds[way]:.1f} s", flush=True)
    return pairs, difference


def floor(model: HookedModel, prompts: Prompts) -> float:
    n_pos = prompts.tokens.shape[1]
    layer = sum(weight.numel() for weight in model.network.model.layers[0].parameters() if weight.ndim == 2)
    unembedding = model.unembedding.numel()
    read = (prompts.period or 0) - 1
    ours = (model.n_layers + 1) / 2 * layer * n_pos + unembedding * read
    return ours / ((model.n_layers * layer + unembedding) * n_pos)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="beside the plain loop")
    parser.add_argument("--lens-rounds", type=int, default=1, help="beside TransformerLens")
    parser.add_argument("--out", type=Path, default=HERE / "ablation.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
