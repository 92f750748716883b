"""Files that are cut off, flipped, or replaced by something else."""

from universal_embedding.errors import UserError

OTHER_CONTENT = (b"", b"\xff\xfe", b"[]", b"{}", b"5", b"null", b"[" * 100_000, b'{"a": 1}', b"PK")


def damage(data, rng):
    """One damaged copy of a file's bytes; `rng` is a `random.Random`."""
    place = rng.randrange(len(data)) if data else 0
    kind = rng.random()
    if kind < 0.4:
        return data[:place]
    if kind < 0.8:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    return rng.choice(OTHER_CONTENT)


def damage_each(paths, read, rng, times):
    """Damages each file `times` times and reads it; counts of reads and of those that were refused.

    Each read succeeds or raises a `UserError` of one line; afterwards the files are whole again.
    """
    tried = refused = 0
    for path in paths:
        whole = path.read_bytes()
        for _ in range(times):
            path.write_bytes(damage(whole, rng))
            tried += 1
            try:
                read()
            except UserError as error:
                assert "\n" not in str(error), path
                refused += 1
            except Exception as error:
                raise AssertionError(f"{path.name}: {path.read_bytes()[:80]!r}") from error
        path.write_bytes(whole)
    read()
    return tried, refused
