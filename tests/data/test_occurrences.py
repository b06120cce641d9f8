import pytest
import torch

from induction_lab.data.occurrences import ideal_pattern


@pytest.mark.parametrize("kind", ["ideal_induction", "ideal_previous_token", "duplicate_token", ""])
def test_an_ideal_pattern_of_an_unknown_kind_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"previous_token, induction, got '{kind}'"):
        ideal_pattern(torch.tensor([[0, 1, 2, 1]]), kind)
