"""What it means that a file is refused."""

import pytest
from hypothesis import HealthCheck, settings


def drawn(examples):
    """Cases drawn anew in each run; a failing one is printed with the line that repeats it."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=False,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def complaint(error, path, read, *names):
    """Nothing if `read` raises this error and the message names the file and the rest; else what happened."""
    try:
        read()
    except error as caught:
        unnamed = [name for name in (str(path), *names) if name not in str(caught)]
        return f"{unnamed} not in: {caught}" if unnamed else ""
    except Exception as caught:
        return f"{type(caught).__name__}: {caught}"
    return "read without an error"


def none_of(complaints):
    """Fail with all complaints there are, by case."""
    if found := [f"{case}: {why}" for case, why in complaints.items() if why]:
        pytest.fail("\n".join(found))


def refused(error, path, read, *names):
    none_of({"": complaint(error, path, read, *names)})


def all_refused(error, path, read, files, written=None):
    """As `refused`, of every one of these contents of a file."""
    complaints = {}
    for name, file in files.items():
        (written or path).write_bytes(file)
        complaints[name] = complaint(error, path, read)
    none_of(complaints)


def unless_refused(error, path, read):
    """What `read` gives, or None if it refuses the file as `refused` wants it."""
    results = []
    found = complaint(error, path, lambda: results.append(read()))
    if not results:
        none_of({"": found})
    return results[0] if results else None


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def by_key(cases):
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))
