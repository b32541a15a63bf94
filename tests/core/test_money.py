from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.core.money import NANOS_MAX, ceil_div, format_usd, nanos_to_usd, usd_to_nanos


@pytest.mark.parametrize(
    ("usd", "nanos"),
    [
        ("12.50", 12_500_000_000),
        ("0.000000001", 1),
        ("-0.01", -10_000_000),
        ("0", 0),
        (3, 3_000_000_000),
        (Decimal("0.0625"), 62_500_000),
        ("1e-9", 1),
    ],
)
def test_dollars_become_nano_dollars_exactly(usd: str | int | Decimal, nanos: int) -> None:
    assert usd_to_nanos(usd) == nanos


@pytest.mark.parametrize(
    "usd", ["", "ten", "1,000", "$5", "0.0000000001", "1e-10", "9223372037", "NaN", "Infinity"]
)
def test_what_is_not_an_exact_amount_is_refused_in_a_sentence(usd: str) -> None:
    with pytest.raises(ValueError, match=r"[.;]"):
        usd_to_nanos(usd)


def test_a_float_is_never_money() -> None:
    with pytest.raises(ValueError, match="not as a float"):
        usd_to_nanos(0.1)  # type: ignore[arg-type]


@given(st.integers(-NANOS_MAX, NANOS_MAX))
def test_writing_an_amount_and_reading_it_again_changes_nothing(nanos: int) -> None:
    assert usd_to_nanos(nanos_to_usd(nanos)) == nanos


def test_an_amount_for_people_has_its_sign_and_separators() -> None:
    assert format_usd(1_234_500_000_000) == "$1,234.50"
    assert format_usd(-1) == "-$0.000000001"
    assert nanos_to_usd(1_234_500_000_000) == "1234.50"


@given(st.integers(0, 10**30), st.integers(1, 10**18))
def test_a_part_of_a_nano_dollar_is_rounded_up_never_down(numerator: int, denominator: int) -> None:
    rounded = ceil_div(numerator, denominator)
    assert rounded * denominator >= numerator > (rounded - 1) * denominator
