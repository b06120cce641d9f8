"""Scores by key-value head in files that cache compressors read."""

from __future__ import annotations

import json
import math
from pathlib import Path

from induction_lab.results.tables import writing
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.scores.results import HeadScores

FORMATS = ("json", "duo-attention")


def export_kv_heads(
    scores: HeadScores,
    path: str | Path,
    *,
    score: str = "prefix_matching",
    reduce: str = "max",
    format: str = "json",
    sink_size: int = 64,
    recent_size: int = 256,
) -> Path:
    """Write one number for each key-value head, for programs that decide what to keep of a key-value cache.

    >>> export_kv_heads(score_heads(load_model("smollm2-135m")), "heads.json")             # doctest: +SKIP
    PosixPath('heads.json')

    Args:
        scores: Head scores.
        path: The file, or for `duo-attention` the folder, to write.
        score: Which.
        reduce: How query heads that share a key-value head come together, see `HeadScores.by_kv_head`.
        format: `json`: names, shape and `values[layer][kv_head]`. `duo-attention`: `full_attention_heads.tsv`, a row a
            layer and a column a key-value head, cut to [0, 1], and `config.json` with the two sizes, as DuoAttention
            (https://arxiv.org/abs/2410.10819) loads them. Layers without heads get 0 there and null in JSON.
        sink_size: First tokens that the other heads keep, for DuoAttention.
        recent_size: Last tokens that they keep.

    Raises:
        ValueError: If there is no such score, format or reduction, a size is negative, or the file cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.{did_you_mean(format, FORMATS)}"
        )
    if sink_size < 0 or recent_size < 0:
        raise ValueError(f"Sizes must not be negative, got sink_size={sink_size}, recent_size={recent_size}.")
    path, values = Path(path), scores.by_kv_head(score, reduce).tolist()
    if format == "json":
        known = [[None if math.isnan(value) else value for value in layer] for layer in values]
        facts = {"model": scores.model, "score": score, "reduce": reduce, "values": known}
        with writing(path) as part:
            part.write_text(json.dumps(facts | {"provenance": scores.provenance}, indent=1) + "\n")
        return path
    lines = ["\t".join(f"{0 if math.isnan(x) else min(max(x, 0), 1):.6f}" for x in layer) for layer in values]
    with writing(path / "full_attention_heads.tsv") as part:
        part.write_text("\n".join(lines) + "\n")
    with writing(path / "config.json") as part:
        part.write_text(json.dumps({"sink_size": sink_size, "recent_size": recent_size}) + "\n")
    return path
