import math

import pandas as pd
import pytest
import torch

from induction_lab.circuits.verdicts import CIRCUIT, VERDICTS, verdicts
from induction_lab.results.statistics import far_from_zero

FALL = 1.0  # nats, so that 0.01 is evidence
IDLE = {
    "effect": 0.0, "effect_error": 0.001, "to_keys": math.nan, "to_keys_error": math.nan,
    "logit_attribution": 0.0, "logit_error": 0.01, "previous_token": 0.1, "prefix_matching": 0.1,
}  # fmt: skip
CARRIES, HURTS, FEEDS = {"effect": 0.5}, {"effect": -0.5}, {"to_keys": 0.2, "to_keys_error": 0.01}
WRITES, OPPOSES = {"logit_attribution": 1.0}, {"logit_attribution": -1.0}
INDUCES, PRECEDES = {"prefix_matching": 0.9}, {"previous_token": 0.9}
CASES = {
    "an idle head": ({}, "bystander"),
    "looks without effect": (INDUCES | PRECEDES, "bystander"),
    "induction by effect": (INDUCES | CARRIES, "induction"),
    "induction by what it writes": (INDUCES | WRITES, "induction"),
    "previous token by effect": (PRECEDES | CARRIES, "previous-token"),
    "previous token by its path": (PRECEDES | FEEDS, "previous-token"),
    "writes and carries": (WRITES | CARRIES, "copy"),
    "writes alone": (WRITES, "bystander"),
    "carries alone": (CARRIES, "carrier"),
    "feeds alone": (FEEDS, "carrier"),
    "hurts, whatever else": (HURTS | INDUCES | WRITES, "suppressor"),
    "opposes": (OPPOSES, "suppressor"),
    "opposes but carries": (OPPOSES | CARRIES, "carrier"),
    "within two standard errors": (CARRIES | {"effect_error": 0.3}, "bystander"),
    "too small": ({"effect": 0.009, "effect_error": 0.0}, "bystander"),
    "nothing known": (dict.fromkeys(("effect", "logit_attribution"), math.nan) | INDUCES, "bystander"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_is_what_the_evidence_says(case):
    evidence, verdict = CASES[case]
    writer = IDLE | WRITES  # another head, so that there is something written
    assert verdicts(pd.DataFrame([IDLE | evidence, writer]), FALL, 8)[0] == verdict


def test_where_the_loss_does_not_fall_no_effect_is_evidence():
    assert verdicts(pd.DataFrame([IDLE | CARRIES | INDUCES, IDLE | HURTS]), -0.1, 8) == ["bystander", "bystander"]


def test_every_verdict_is_explained_and_there_is_a_case_of_each():
    assert {verdict for _, verdict in CASES.values()} == set(VERDICTS) and set(CIRCUIT) < set(VERDICTS)


def test_among_many_heads_by_chance_alone_hardly_ever_one_is_more_than_a_bystander():
    """Of 100 sets of 200 heads without an effect, at most a few have any; by two standard errors all of them had."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(100):
        changes = torch.randn(8, 200, 3, generator=generator) * torch.rand(200, 1, generator=generator)
        means, errors = changes.mean(0), changes.std(0) / 8**0.5
        heads = pd.DataFrame([IDLE] * 200)
        for i, name in enumerate(("effect", "to_keys", "logit_attribution")):
            heads[name], heads[{2: "logit_error"}.get(i, f"{name}_error")] = means[:, i].numpy(), errors[:, i].numpy()
        found.append(sum(verdict != "bystander" for verdict in verdicts(heads, FALL, 8)))
    assert sum(n > 0 for n in found) <= 10


@pytest.mark.parametrize("n_prompts", [2, 4, 8])
def test_p_values_are_even_where_there_is_nothing(n_prompts):
    generator = torch.Generator().manual_seed(0)
    spread = torch.distributions.Chi2(torch.tensor(4.0)).sample((20000,)).rsqrt()
    values = torch.randn(n_prompts, 20000, generator=generator) * spread
    p = far_from_zero(values.mean(0), values.std(0) / n_prompts**0.5, n_prompts)
    for level in (0.001, 0.01, 0.1, 0.5):
        binomial = (level * (1 - level) / 20000) ** 0.5
        assert float((p <= level).double().mean()) == pytest.approx(level, rel=0.1, abs=4 * binomial)


def test_an_effect_without_any_error_is_what_it_is():
    means, errors = torch.tensor([1.0, 0.0, -1.0, math.nan]), torch.tensor([0.0, 0.0, 0.0, math.nan])
    p = far_from_zero(means, errors, 3)
    assert p[:3].tolist() == [0.0, 0.5, 1.0] and p[3].isnan()
