"""Money is an integer number of nano-dollars (1 USD = 10**9). Nothing here is ever a float."""

from decimal import Decimal, InvalidOperation

NANOS_PER_USD = 1_000_000_000
NANOS_MAX = 2**63 - 1
"""The largest amount a bigint column holds: about 9.2 billion dollars."""


def usd_to_nanos(usd: str | int | Decimal) -> int:
    """'12.50' → 12_500_000_000. ValueError, as a sentence, for anything that is not exact."""
    if isinstance(usd, float):
        raise ValueError("An amount of money must be written as text or a whole number, not as a float.")
    try:
        nanos = Decimal(usd) * NANOS_PER_USD
        exact = nanos == nanos.to_integral_value()
    except InvalidOperation:
        raise ValueError(f"“{usd}” is not an amount in US dollars; write it like 12.50.") from None
    if not exact:
        raise ValueError(f"${usd} has more than nine decimals; the smallest amount is $0.000000001.")
    if abs(nanos) > NANOS_MAX:
        raise ValueError(f"${usd} is larger than the largest amount that can be kept, $9,223,372,036.")
    return int(nanos)


def nanos_to_usd(nanos: int) -> str:
    """12_500_000_000 → '12.50'. Exact: two to nine decimals, no thousands separators, for files and APIs."""
    digits = f"{nanos:011d}" if nanos < 0 else f"{nanos:010d}"
    decimals = digits[-9:].rstrip("0")
    return f"{digits[:-9]}.{decimals if len(decimals) > 1 else digits[-9:-7]}"


def format_usd(nanos: int) -> str:
    """12_500_000_000 → '$12.50', for people: exact, with thousands separators."""
    text = nanos_to_usd(abs(nanos))
    whole, decimals = text.split(".")
    return f"{'-' if nanos < 0 else ''}${int(whole):,}.{decimals}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Division rounded up: what a part of a nano-dollar costs."""
    return -(-numerator // denominator)
