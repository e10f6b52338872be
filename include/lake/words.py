"""How counts and ranges are written for people."""


def counted(number: float, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`, `1.5 hours`; `many`: where more of them want more than an s."""
    return f"{number:,}".removesuffix(".0") + f" {one if number == 1 else many or f'{one}s'}"


def span(first: str, last: str) -> str:
    """`2026-01-05..2026-01-07`, and one day alone once."""
    return first if first == last else f"{first}..{last}"
