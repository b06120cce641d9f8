import pandas as pd
from scripts import script

harness = script("harness")


def test_a_row_takes_the_place_of_the_same_measured_before_and_others_stay(tmp_path):
    path, by = tmp_path / "table.csv", {"model": ["small", "large"], "seed": None}
    for model, seed, found in (("large", 1, 0.1), ("small", 2, 0.2), ("large", 0, 0.3), ("large", 1, 0.4)):
        harness.put_row(path, {"model": model, "seed": seed, "found": found}, by)
    assert pd.read_csv(path).to_numpy().tolist() == [["small", 2, 0.2], ["large", 0, 0.3], ["large", 1, 0.4]]
