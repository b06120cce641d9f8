"""Models that go by a short name here. No torch is needed to list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedModel:
    """A model that goes by a short name here."""

    name: str
    what: str
    size: str
    needs: str


BUNDLED = "induction-2l"  # the name of the model that comes with the package
NAMED = {
    model.name: model
    for model in (
        NamedModel(BUNDLED, "2 attention layers, trained on repeats", "0.4 MB", "bundled"),
        NamedModel("smollm2-135m", "SmolLM2-135M-Instruct, 30 x 9 heads", "540 MB", "93 MB download"),
    )
}
