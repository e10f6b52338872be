"""Chance and text, a whole column at a time."""

import re
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def generator(seed: int, stream: str, day: int = 0) -> np.random.Generator:
    """The dice of one stream on one day. crc32, because Python's own hash differs from process to process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, day, zlib.crc32(stream.encode())])))


def some(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Rare rows in rising order: `share` of `count`, but at least two, so that small samples have all the dirt too."""
    return np.sort(rng.permutation(count)[: max(2, round(count * share))])


def ms(rng: np.random.Generator, mean: float | np.ndarray, count: int) -> np.ndarray:
    """How long it takes until something happens that happens every `mean` ms."""
    return rng.exponential(mean, count).astype(np.int64)


def texts(values: np.ndarray) -> pa.Array:
    return pa.array(values).cast(pa.string())


def take(pool: pa.Array | list[str] | tuple[str, ...], index: np.ndarray) -> pa.Array:
    """The texts of the pool at the index; null where that is negative."""
    pool = pool if isinstance(pool, pa.Array) else pa.array(pool, pa.string())
    return pool.take(pa.array(index, mask=index < 0))


def either(chance: np.ndarray, yes: str = "true", no: str = "false") -> pa.Array:
    return take([no, yes], chance.astype(int))


def fill(template: str, **columns: pa.Array) -> pa.Array:
    """The template with its <names> replaced by the columns, row by row; a null in one of them makes the text null."""
    pieces = re.split(r"<(\w+)>", template)
    return pc.binary_join_element_wise(*(columns[p] if n % 2 else p for n, p in enumerate(pieces)), "")


def put(values: pa.Array, rows: np.ndarray, new: str | int | pa.Array | None) -> pa.Array:
    """The values with those at `rows` (in rising order) replaced."""
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    return pc.replace_with_mask(values, mask, new if isinstance(new, pa.Array) else pa.scalar(new, values.type))


def tear(rng: np.random.Generator, json: pa.Array, share: float) -> pa.Array:
    """The JSON texts, a few of them cut off in the middle, as a full disk or an old client leaves them."""
    rows = some(rng, len(json), share)
    torn = [text and text[: len(text) // 2] for text in json.take(pa.array(rows)).to_pylist()]
    return put(json, rows, pa.array(torn, pa.string()))


def with_repeats(rng: np.random.Generator, rows: dict[str, pa.Array], share: float) -> dict[str, pa.Array]:
    """The rows, a few of them twice: exactly the same again, right behind the first one."""
    count = len(next(iter(rows.values())))
    order = pa.array(np.sort(np.concatenate([np.arange(count), some(rng, count, share)])))
    return {name: column.take(order) for name, column in rows.items()}
