import math

import pandas as pd
import pytest

from induction_lab.circuits.verdicts import CIRCUIT, VERDICTS, verdicts

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
    assert verdicts(pd.DataFrame([IDLE | evidence, writer]), FALL)[0] == verdict


def test_where_the_loss_does_not_fall_no_effect_is_evidence():
    assert verdicts(pd.DataFrame([IDLE | CARRIES | INDUCES, IDLE | HURTS]), -0.1) == ["bystander", "bystander"]


def test_every_verdict_is_explained_and_there_is_a_case_of_each():
    assert {verdict for _, verdict in CASES.values()} == set(VERDICTS) and set(CIRCUIT) < set(VERDICTS)
