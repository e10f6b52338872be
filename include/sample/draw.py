"""Random values and texts for a whole column at a time."""

import re
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def generator(seed: int, stream: str, day: int = 0) -> np.random.Generator:
    """The random generator of one stream on one day. crc32, because Python's hash differs in each process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, day, zlib.crc32(stream.encode())])))


def some(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Sorted positions of rare rows: `share` of `count`, at least two. So small samples have all kinds of dirt, too."""
    return np.sort(rng.permutation(count)[: max(2, round(count * share))])


def ms(rng: np.random.Generator, mean: float | np.ndarray, count: int) -> np.ndarray:
    """Random waiting times for an event that comes every `mean` ms."""
    return rng.exponential(mean, count).astype(np.int64)


def texts(values: np.ndarray) -> pa.Array:
    return pa.array(values).cast(pa.string())


def take(pool: pa.Array | list[str] | tuple[str, ...], index: np.ndarray) -> pa.Array:
    """The texts of the pool at each index; null for a negative index."""
    pool = pool if isinstance(pool, pa.Array) else pa.array(pool, pa.string())
    return pool.take(pa.array(index, mask=index < 0))


def either(chance: np.ndarray, yes: str = "true", no: str = "false") -> pa.Array:
    return take([no, yes], chance.astype(int))


def fill(template: str, **columns: pa.Array) -> pa.Array:
    """Replace the <names> of the template by columns, row by row. A null in a column makes the text null."""
    pieces = re.split(r"<(\w+)>", template)
    return pc.binary_join_element_wise(*(columns[p] if n % 2 else p for n, p in enumerate(pieces)), "")


def put(values: pa.Array, rows: np.ndarray, new: str | int | pa.Array | None) -> pa.Array:
    """The values with those at `rows` replaced. `rows` must be sorted."""
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    return pc.replace_with_mask(values, mask, new if isinstance(new, pa.Array) else pa.scalar(new, values.type))


def tear(rng: np.random.Generator, json: pa.Array, share: float) -> pa.Array:
    """Cut a few of the JSON texts in the middle, as a full disk or an old client does."""
    rows = some(rng, len(json), share)
    torn = [text and text[: len(text) // 2] for text in json.take(pa.array(rows)).to_pylist()]
    return put(json, rows, pa.array(torn, pa.string()))


def with_repeats(rng: np.random.Generator, rows: dict[str, pa.Array], share: float) -> dict[str, pa.Array]:
    """Repeat a few of the rows. The copy comes right after the original."""
    count = len(next(iter(rows.values())))
    order = pa.array(np.sort(np.concatenate([np.arange(count), some(rng, count, share)])))
    return {name: column.take(order) for name, column in rows.items()}
