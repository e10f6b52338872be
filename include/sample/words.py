"""Made-up names and sayings, and the countries with their languages. No real person or band is meant."""

import numpy as np
import pyarrow as pa

from include.sample.draw import fill, take, texts

COUNTRIES = ("KR", "JP", "US", "ID", "PH", "TH", "TW", "MX", "BR", "IN", "VN", "FR", "GB", "DE")
COUNTRY_WEIGHTS = np.array([22, 19, 14, 10, 6, 6, 5, 4, 4, 3, 3, 2, 1, 1]) / 100
LANGUAGES = ("ko", "ja", "en", "id", "en", "th", "zh-tw", "es", "pt", "en", "vi", "fr", "en", "de")
LOCALES = tuple(f"{language[:2]}_{country}" for language, country in zip(LANGUAGES, COUNTRIES, strict=True))

_NICKNAMES = (
    ("달빛 몽글 새벽 구름 반짝 졸린", "고래 토끼 여우 감자 수달 라떼"),
    ("ほし ゆめ そら ねむい もち ゆき", "くじら うさぎ たぬき プリン らっこ りんご"),
    ("Sleepy Moon Velvet Tiny Cosmic Minty", "Otter Whale Comet Waffle Panda Sparrow"),
)
_POOL = [first + last for firsts, lasts in _NICKNAMES for first in firsts.split() for last in lasts.split()]


def nicknames(rng: np.random.Generator, country: np.ndarray) -> pa.Array:
    """Names of members: Korean in Korea, Japanese in Japan, English elsewhere. One in a hundred has none."""
    each = len(_POOL) // len(_NICKNAMES)
    name = country.clip(max=2) * each + rng.integers(0, each, country.size)
    name[rng.random(country.size) < 0.01] = -1
    return fill("<name><number>", name=take(_POOL, name), number=texts(rng.integers(0, 1000, country.size)))


_KOREAN, _JAPANESE = "렐퓨카윰델솝닉토벨쿄", "レピカユデソニトベキ"
_ENGLISH = ("rel", "pyu", "ka", "yum", "del", "sop", "nik", "to", "bel", "kyo")


def stage_name(number: int) -> dict[str, str]:
    """The name of an artist in each language."""
    a, b = number % 10, (number // 10 + number + 3) % 10
    english = (_ENGLISH[a] + _ENGLISH[b]).capitalize()
    return {"ko": _KOREAN[a] + _KOREAN[b], "en": english, "jp": _JAPANESE[a] + _JAPANESE[b]}


_FIRSTS = ["Lumo", "Veri", "Kaso", "Nimbu", "Orfa", "Tavi", "Zelu", "Piro", "Quin", "Hexa"]
_LASTS = ["tide", "ravn", "bloomz", "dash", "loft", "voxx", "minto", "kyte"]


def band_names(count: int) -> list[str]:
    """Lumotide, Veriravn, … with a number once all are taken."""
    return [_FIRSTS[n % 10] + _LASTS[(n + n // 10) % 8] + (f" {n // 80 + 1}" if n >= 80 else "") for n in range(count)]


# The texts are in the form of JSON: quotes and line breaks are escaped already.
SAYINGS = (
    *(
        "오늘 무대 최고였어요!!",
        "보고 싶어 ㅠㅠ",
        '\\"앵콜\\" 또 보고 싶다',
        "ㅋㅋㅋㅋ",
        "생일 축하해요 🎂",
        "ライブ楽しかった〜",
        "だいすき♡",
    ),
    *("I love this song", "first!\\nhi from Brazil 🇧🇷", "Selamat pagi 💜", "¿Cuándo vienen a México?", "thank you"),
)
