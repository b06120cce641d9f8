import pytest
from hypothesis import given, settings, strategies as st

from induction_lab.data.corpora import TextFiles
from induction_lab.data.training_streams import (
    MarkovChains,
    ScatteredCopies,
    TiledBlocks,
    TriggerBigrams,
    ZipfianTokens,
)
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.training.ready_recipes import READY, ready_recipes
from induction_lab.training.recipes import Recipe, load_recipe
from induction_lab.training.trainer import TrainingPlan

POSITIVE = st.floats(1e-12, 1e12)
SHAPES = st.builds(
    dict,
    n_layers=st.integers(1, 3),
    n_heads=st.integers(1, 4),
    d_model=st.integers(1, 64),
    d_head=st.integers(1, 8).map(lambda n: 2 * n),
    n_ctx=st.integers(24, 64),
    positions=st.sampled_from(["learned", "rotary", "shortformer", "none"]),
    layer_norm=st.booleans(),
    smeared_keys=st.booleans(),
    d_mlp=st.none() | st.integers(1, 64),
)
STREAMS = st.one_of(
    st.builds(TiledBlocks, d_vocab=st.integers(2, 99), longest=st.integers(5, 20), left_out=st.just((4, 5)[:1])),
    st.builds(ScatteredCopies, longest_gap=st.integers(0, 9), exponent=st.floats(0, 3)),
    st.builds(ZipfianTokens, exponent=st.floats(0, 3)),
    st.builds(MarkovChains, n_states=st.integers(2, 5), doubly_stochastic=st.booleans()),
    st.builds(TriggerBigrams, world_seed=st.integers(0, 9)),
)
PLANS = st.builds(
    TrainingPlan,
    steps=st.integers(1, 10**6),
    peak_rate=POSITIVE,
    clip=POSITIVE | st.just(float("inf")),
    decay=st.floats(1e-9, 1),
    weight_decay=st.floats(0, 1e9),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
CLAMPS = st.sampled_from([{}, {"L0H0": "previous_token"}, {"L0H0": "induction"}])


@settings(max_examples=60, deadline=None)
@given(SHAPES, STREAMS, PLANS, CLAMPS, st.integers(0, 2**63 - 1))
def test_a_recipe_comes_back_from_its_file(tmp_path_factory, shape, data, plan, clamps, seed):
    recipe = Recipe(AttentionOnlyConfig(**shape, d_vocab=data.d_vocab), data, plan, clamps, seed)
    path = tmp_path_factory.mktemp("recipe") / "mine.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe and again.to_toml() == recipe.to_toml() and again.fingerprint == recipe.fingerprint


def test_a_recipe_on_text_is_read_without_its_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nkind = "text"\nfiles = ["gone.txt"]\n')
    recipe = load_recipe(path)
    assert recipe.data == TextFiles((str(tmp_path / "gone.txt"),)) and recipe.model.d_vocab == recipe.data.d_vocab
    with pytest.raises(ValueError, match="No text files match"):
        recipe.data.open()


def test_paths_of_text_are_looked_for_beside_the_recipe_and_those_of_a_ready_one_here(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('[data]\nkind = "text"\nfiles = ["a.txt", "/b/*.txt"]\n')
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.toml").data.files == (str(tmp_path / "a.txt"), "/b/*.txt")  # type: ignore[union-attr]
    assert load_recipe("gpu").data.files == (str(tmp_path / "text"),)  # type: ignore[union-attr]


def test_the_fingerprint_tells_seeds_apart():
    assert load_recipe("minute").fingerprint != load_recipe("minute", seed=1).fingerprint


def test_the_minute_recipe_says_what_its_file_says():
    recipe = load_recipe("minute")
    assert "minute" in ready_recipes() and (READY / "minute.toml").is_file()
    assert recipe.data == TiledBlocks(64, 4, 31, left_out=(20,)) and recipe.kind == "tiled"
    assert recipe.model == AttentionOnlyConfig(d_vocab=64) and recipe.training == TrainingPlan(initial_scale=0.16)


def test_settings_are_exchanged_by_keyword():
    recipe = load_recipe("minute", steps=10, peak_rate=1, seed=4)
    assert (recipe.training.steps, recipe.training.peak_rate, recipe.seed) == (10, 1.0, 4)
    assert recipe.training.batch == load_recipe("minute").training.batch
    with pytest.raises(ValueError, match=r"minute.toml: \[training\] has no stepz; it has steps, batch"):
        load_recipe("minute", stepz=10)
    with pytest.raises(ValueError, match=r"\[training\] `steps` must be a whole number, got 'ten'"):
        load_recipe("minute", steps="ten")


WHOLE = """
[model]
n_ctx = 32
[data]
kind = "tiled"
d_vocab = 20
longest = 9
[training]
steps = 5
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[model]", "[mode]", r"unknown entries \['mode'\]; a recipe has seed and the sections model, data"),
        ("[model]", "colour = 3\n[model]", r"unknown entries \['colour'\]"),
        ("[model]", "clamps = 3\n[model]", r"`clamps` is a section, \[clamps\], got 3"),
        ("[model]", 'seed = "x"\n[model]', "`seed` must be a whole number"),
        ("[model]", "seed = true\n[model]", "`seed` must be a whole number"),
        ("[model]", "seed = -1\n[model]", "`seed` must be a whole number, 0 or more"),
        ("n_ctx", "n_ctxs", r"\[model\] has no n_ctxs; it has n_layers"),
        ("n_ctx = 32", "n_ctx = 32.0", r"\[model\] `n_ctx` must be a whole number, got 32.0"),
        ("n_ctx = 32", "n_ctx = true", r"\[model\] `n_ctx` must be a whole number, got True"),
        ("n_ctx = 32", "n_ctx = 0", r"\[model\] `n_ctx` must be a whole number of at least 1"),
        ("n_ctx = 32", "n_ctx = 5", "Blocks must fit behind BOS"),
        ("n_ctx = 32", 'd_mlp = "wide"', r"\[model\] `d_mlp` must be a whole number, got 'wide'"),
        ("n_ctx = 32", "bos_token_id = 3", "`bos_token_id` must be 0"),
        ("n_ctx = 32", 'positions = "there"', r"\[model\] `positions`"),
        ("n_ctx = 32", "d_vocab = 20", r"\[model\] has no `d_vocab`"),
        ('kind = "tiled"', 'kind = "til"', r"\[data\] needs `kind`, one of tiled, .*got 'til'"),
        ('kind = "tiled"', "kind = [1]", r"\[data\] needs `kind`"),
        ('kind = "tiled"', "", r"\[data\] needs `kind`.*got None"),
        ("longest = 9", "longest_gap = 9", r"\[data\] has no longest_gap"),
        ("longest = 9", "longest = 2", r"\[data\] "),
        ("longest = 9", 'left_out = ["a"]', r"\[data\] `left_out` must be a list, each a whole number, got \['a'\]"),
        ("longest = 9", "left_out = 5", r"\[data\] `left_out`"),
        ("steps = 5", "steps = 0", r"\[training\] `steps` must be at least 1"),
        ("steps = 5", "peak_rate = nan", r"\[training\] `peak_rate` must be positive, got nan"),
        ("steps = 5", 'precision = "half"', r"\[training\] `precision`"),
        ("steps = 5", "[clamps]\nL9H0 = 'induction'", "L9H0 is not there: the model has layers 0 to 1"),
        ("steps = 5", "[clamps]\nL0H9 = 'induction'", "L0H9 is not there"),
        ("steps = 5", "[clamps]\nhead = 'induction'", "No head is written 'head'"),
        ("steps = 5", "[clamps]\nL0H0 = 'copying'", "previous_token or induction, got .'copying'"),
        ("steps = 5", "[clamps]\nL0H0 = 3\nL0H1 = 'x'\nL1H0 = [1]", "previous_token or induction"),
        ("steps = 5", "[clamps]\nL0H0 = 'induction'\n'0.0' = 'induction'", "may be clamped once"),
        ("steps = 5", "compile = true\n[clamps]\nL0H0 = 'induction'", "compiled network cannot be clamped"),
        ("steps = 5", "steps = ", "is no readable recipe"),
    ],
)
def test_entries_that_are_unknown_or_not_allowed_are_named_with_their_file(tmp_path, before, after, message):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE)
    assert load_recipe(path).training.steps == 5
    path.write_text(WHOLE.replace(before, after, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_what_is_no_recipe_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no recipe 'nothing': give a TOML file or one of .*minute"):
        load_recipe("nothing")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(ValueError, match=f"{path} is no readable recipe"):
            load_recipe(path)


def test_parts_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="The data have 30 tokens, the model 64"):
        Recipe(AttentionOnlyConfig(), TiledBlocks(30))
    with pytest.raises(ValueError, match="The data are one of tiled.*got str"):
        Recipe(AttentionOnlyConfig(), "tiled")


def test_clamped_heads_have_one_name_however_they_are_written():
    recipe = Recipe(AttentionOnlyConfig(), TiledBlocks(), clamps={"1.0": "induction", "L0H3": "previous_token"})
    assert recipe.clamps == {"L0H3": "previous_token", "L1H0": "induction"}
