"""Damage to the bytes of a file, as disks and broken transfers do it."""

from hypothesis import strategies as st


def flips(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with one to three bytes changed; near both ends, where the formats keep their heads, more often."""
    ends = [st.integers(0, min(2000, len(data)) - 1), st.integers(max(0, len(data) - 3000), len(data) - 1)]
    place = st.one_of(st.integers(0, len(data) - 1), *ends)
    return st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=3, unique_by=first).map(
        lambda changes: flipped(data, changes)
    )


def cuts(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` without its end."""
    return st.integers(0, len(data) - 1).map(lambda length: data[:length])


def first(pair: tuple):
    return pair[0]


def flipped(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, difference in changes:
        changed[place] ^= difference
    return bytes(changed)
