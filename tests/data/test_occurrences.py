import pytest
import torch

from induction_lab.data.occurrences import ideal_pattern


@pytest.mark.parametrize("kind", ["induction", "previous_token", "ideal_duplicate_token", ""])
def test_an_ideal_pattern_of_an_unknown_kind_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"ideal_previous_token, ideal_induction, got '{kind}'"):
        ideal_pattern(torch.tensor([[0, 1, 2, 1]]), kind)
