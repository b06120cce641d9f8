"""`Explanation`: what carries a model's copying and how sure that is, as `explain` finds it; save and load."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from induction_lab.circuits.verdicts import CIRCUIT
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadList
from induction_lab.results.saved import Loadable

EDGES = pd.Index(["sender", "receiver", "effect", "standard_error"])
TESTS = pd.Index(["heads", "n_heads", "loss_alone", "faithfulness", "loss_without", "necessity"])


@dataclass(frozen=True, repr=False)
class Explanation(Loadable):
    """What carries a model's copying, and how much of it.

    Attributes:
        model: The model's name.
        n_layers: Its layers.
        n_heads: Heads of each.
        behaviour: `first_copy` and `second_copy`, mean losses in nats; `no_heads`, the second copy's with all heads
            mean-ablated, on other prompts.
        heads: One row a head: `label`, `layer`, `head`, `verdict`; `effect` of its mean ablation on the second copy's
            loss in nats, `effect_error` its standard error; `to_keys`, the effect of cutting its direct path to the
            keys of the induction heads, `to_keys_error`; `previous_token`, `prefix_matching`, `duplicate_token`,
            `logit_attribution`.
        edges: One row a path `sender` → keys of `receiver`: `effect` of cutting it, `standard_error`.
        tests: One row a set of heads: `heads` (`circuit`, `random 1`, …), `n_heads`, `loss_alone` (all others
            mean-ablated), `faithfulness`, `loss_without` (they mean-ablated), `necessity`.
        provenance: Model, prompts, versions; `left_out`: what could not be had of this model, and why.
    """

    model: str
    n_layers: int
    n_heads: int
    behaviour: dict[str, float]
    heads: pd.DataFrame
    edges: pd.DataFrame
    tests: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _TABLE, _COLUMNS = "explanation", "heads", ("label", "verdict", "effect")
    _FACTS = ("model", "n_layers", "n_heads", "behaviour", "edges", "tests")

    def __repr__(self) -> str:
        """The circuit."""
        roles = ", ".join(f"{len(self.of(verdict))} {verdict}" for verdict in CIRCUIT if self.of(verdict))
        return f"Explanation({self.model!r}: {roles or 'no circuit'})"

    def _repr_html_(self) -> str:
        """The heads that are no bystanders, for notebooks."""
        columns = ["label", "verdict", "effect", "to_keys", "previous_token", "prefix_matching", "logit_attribution"]
        heads: Any = self.heads.loc[self.heads["verdict"] != "bystander"].sort_values("effect", ascending=False)
        losses = ", ".join(f"{name.replace('_', ' ')} {loss:.2f}" for name, loss in self.behaviour.items())
        rows = heads[columns].itertuples(index=False)
        return html_card(f"Explanation of {self.model}", f"Loss, nats: {losses}", columns, rows)

    def of(self, *verdicts: str) -> list[Head]:
        """Heads of these verdicts, those with the greatest effect first."""
        rows: Any = self.heads.loc[self.heads["verdict"].isin(verdicts)].sort_values("effect", ascending=False)
        return HeadList(Head(int(row["layer"]), int(row["head"])) for row in rows.to_dict("records"))

    @property
    def circuit(self) -> list[Head]:
        """Every head that carries the behaviour."""
        return self.of(*CIRCUIT)

    def _facts(self) -> dict[str, Any]:
        facts = super()._facts()
        for name in ("edges", "tests"):
            facts[name] = json.loads(str(facts[name].to_json(orient="records", double_precision=12)))
        return facts

    @classmethod
    def _from_table(cls, table: pd.DataFrame, facts: dict[str, Any]) -> Explanation:
        facts["edges"] = pd.DataFrame(facts["edges"], columns=EDGES)
        facts["tests"] = pd.DataFrame(facts["tests"], columns=TESTS)
        given = {name: facts[name] for name in cls._FACTS}
        return cls(heads=table, **given, provenance=facts.get("provenance", {}))
