"""Lists of option values in `core.choices` agree with the tables of the library."""

from __future__ import annotations

from linalign_lite.core import choices
from linalign_lite.core.choices import values_of
from linalign_lite.encrypt.parameters import PROFILES
from linalign_lite.extraction import pipeline
from linalign_lite.heads.ood.detectors import METHODS


def test_values_are_those_of_the_tables():
    assert values_of(choices.DetectorMethod) == METHODS
    assert values_of(choices.Profile) == tuple(PROFILES)
    assert values_of(choices.FloatDtype) == tuple(pipeline.DTYPES)


def test_smaller_lists_are_parts_of_larger_ones():
    assert (*values_of(choices.TextPooling), "tokens") == values_of(choices.Pooling)
    assert set(choices.MomentsMethod) < set(values_of(choices.MapMethod))
    assert set(choices.FloatDtype) < set(values_of(choices.WeightDtype))


def test_values_leave_out_auto_and_are_plain_strings():
    assert values_of(choices.HeadMethod) == ("ridge", "logistic")
    assert all(type(value) is str for value in values_of(choices.Pooling))
