"""Whatever strangers send is read, or refused by one of the errors that are foreseen; ``fuzz.py`` does the same for long."""

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.fuzz import mutate
from tests.hostile.readers import READERS
from tests.hostile.seeds import corpus, read_corpus

INPUTS = 300  # of each reader, in a run of the tests


@pytest.mark.parametrize("name", READERS)
def test_what_the_hostile_inputs_are_made_of_is_whole(name: str) -> None:
    """Inputs that are refused at their first byte would try nothing."""
    if name != "manifest":  # the files that it names are not there
        assert all(READERS[name](content) for content in corpus()[name].values())


@pytest.mark.parametrize("name", READERS)
def test_hostile_inputs_are_read_or_refused(name: str) -> None:
    seeds, rng = read_corpus(name), Random(0)

    for _ in range(INPUTS):
        READERS[name](mutate(rng.choice(seeds), seeds, rng))


@pytest.mark.parametrize("name", READERS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    @example(b"")
    @given(st.binary(max_size=300))
    def read(content: bytes) -> None:
        READERS[name](content)

    read()
