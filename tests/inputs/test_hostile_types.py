"""Values of any type in any field or argument: an error that names it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hostile_world import GOOD, MEGABYTE, Mute, bounded, deep, is_answer, refused

from modeling_hmgrl.entity_markers import short_repr
from modeling_hmgrl.pipeline_inputs import FIELDS


def in_itself():
    value = []
    value.append(value)
    return value


TYPES = {
    "deep": deep(),
    "deep mapping": {"a": deep()},
    "in itself": in_itself(),
    "huge number": 10**5000,
    "huge numbers": [[0, 10**5000]],
    "below": [[-(10**5000), 3]],
    "not a number": math.nan,
    "numbers": [[math.nan, math.inf]],
    "true": True,
    "object": object(),
    "mute": Mute(),
    "mutes": [Mute()],
    "class": str,
    "function": len,
    "bytes": b"fox\xff",
    "set": {1, 2},
    "mapping": {1: 2},
    "two keys": {"a": 1, "b": 2},
    "generator": (x for x in "fox"),
    "endless": itertools.count(),
    "array": np.arange(6).reshape(2, 3),
    "texts": np.array(["fox"]),
    "array of objects": np.array([Mute(), None]),
    "scalar": np.float64(3),
    "tensor": torch.arange(5.0),
    "empty": [],
    "pairs of text": [["a", "b"]],
    "many": list(range(1_000_000)),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("field", FIELDS)
def test_any_type_in_any_field_is_refused_or_answered(pipe, field, name):
    record = {**GOOD, field: TYPES[name]}
    if field == "spans":
        del record["mention"]
    with bounded():
        refusal = refused(pipe, record, field)
    assert refusal


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("argument", ["labels", "seen", "top_k", "batch_size", "num_workers",
                                      "on_error", "image_hosts"])  # fmt: skip
def test_any_type_of_any_argument_is_refused_or_answered(pipe, argument, name):
    error = None
    with bounded():
        try:
            result = pipe(GOOD, **{argument: TYPES[name]})
        except ValueError as caught:
            error = str(caught)
    if error is None:
        assert is_answer(result)
        assert name in ("empty", "texts")
    else:
        assert error.startswith((f"{argument}: got ", f"{argument}['a']: got "))
        assert len(error) < 1000


@pytest.mark.parametrize("name", TYPES)
def test_any_type_in_place_of_inputs_is_refused(pipe, name):
    value = TYPES[name]
    if name in ("generator", "endless"):
        value = iter([len])
    with bounded(), pytest.raises(ValueError, match=r"^(inputs?|inputs\[0\])(:|\.)") as caught:
        list(pipe(value)) if name != "empty" else pipe([value])
    assert len(str(caught.value)) < 1000


def test_keys_of_any_type_are_refused(pipe):
    for key in (1, None, (1, 2), b"text", 10**5000, Mute()):
        assert refused(pipe, {**GOOD, key: 1}, None)


def test_values_are_shortened():
    for value in TYPES.values():
        assert len(short_repr(value)) < 400
    assert short_repr("a" * MEGABYTE) == f"'{'a' * 37}...{'a' * 38}'"
    assert short_repr(Mute()).startswith("<Mute instance")
    assert short_repr(10**5000) == "<int>"
    assert short_repr([1, "a", None]) == "[1, 'a', None]"
