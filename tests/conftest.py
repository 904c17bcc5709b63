"""Settings of every test."""

from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True)  # no test depends on the clock
settings.load_profile("tests")
