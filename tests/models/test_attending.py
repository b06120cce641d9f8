"""Attending by another function leaves transformers' classes as they were."""

from contextlib import ExitStack
from threading import Thread

from families import random_network
from transformers import PreTrainedConfig

from induction_lab.models.wiring.attending import attending


def function(*_, **__):
    raise AssertionError("nobody attends here")


def test_the_property_of_configurations_is_transformers_own_but_for_open_scopes():
    config, other = (random_network("llama", attention="sdpa").config for _ in range(2))
    own = vars(PreTrainedConfig)["_attn_implementation"]
    first, second, elsewhere = ExitStack(), ExitStack(), []
    first.enter_context(attending([config], "a_test", function, function))
    second.enter_context(attending([config], "another_test", function, function))
    assert config._attn_implementation == "another_test" and other._attn_implementation == "sdpa"
    thread = Thread(target=lambda: elsewhere.append(config._attn_implementation))
    thread.start()
    thread.join()
    assert elsewhere == ["sdpa"]  # a thread of its own, in no scope
    first.close()  # not the last that was opened
    assert config._attn_implementation == "another_test"
    second.close()
    assert config._attn_implementation == "sdpa" and vars(PreTrainedConfig)["_attn_implementation"] is own


def test_an_error_inside_takes_the_property_off_again():
    config = random_network("llama").config
    own = vars(PreTrainedConfig)["_attn_implementation"]
    try:
        with attending([config], "a_test", function, function):
            raise KeyError
    except KeyError:
        assert vars(PreTrainedConfig)["_attn_implementation"] is own
