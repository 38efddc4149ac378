"""The paper's scale on paper."""

from __future__ import annotations

import pytest

from unires.bench import scale


def test_the_constants_are_those_of_the_networks() -> None:
    found = scale.counted()
    assert found["network"] == pytest.approx(scale.PARAMETERS, rel=1e-3)
    assert found["autoencoder"] == pytest.approx(scale.AUTOENCODER, rel=1e-3)
    assert found["pass"] == pytest.approx(scale.MULTIPLY_ADDS, rel=0.01)
    assert found["encode"] == pytest.approx(scale.ENCODE, rel=0.01)


def test_more_devices_take_less_time_and_sharded_less_memory() -> None:
    few, many = scale.arithmetic(8), scale.arithmetic(32)
    assert few["samples"] * 8 == many["samples"] * 32 == 256
    assert few["days"] == pytest.approx(4 * many["days"]) and few["ddp"] == many["ddp"]
    assert many["fsdp"] < few["fsdp"] < few["ddp"]
    assert few["days"] == pytest.approx(few["seconds"] * 200_000 / 86400)
    assert scale.table().count("\n") == 3
