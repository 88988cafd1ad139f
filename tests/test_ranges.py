"""Settings are held to their ranges, and an error names the key, what was found and what is allowed."""

import math

import pytest

from iredinterp.errors import ConfigError
from iredinterp.ranges import require_least, require_levels, require_positive


def test_what_is_in_range_passes_and_other_settings_are_not_looked_at():
    require_least("landscape", {"images": 3, "slices": 0}, {"images": 3, "slices": 0, "seed": -1})
    require_positive("landscape", ["radius"], {"radius": 1e-300, "seed": -1})
    require_levels("landscape", (9, 0))
    require_levels("landscape", (9, 0), 10)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: require_least("a.b", {"x": 1, "y": 3}, {"x": 1, "y": 2}),
            r"a\.b\.y: found 2, needs at least 3",
        ),
        (lambda: require_positive("a", ("x",), {"x": 0.0}), r"a\.x: found 0\.0; give a number above 0"),
        (lambda: require_positive("a", ("x",), {"x": math.nan}), r"a\.x: found nan; give a number above 0"),
        (lambda: require_levels("a", ()), r"a\.levels: found \[\]; give one or more, each once"),
        (lambda: require_levels("a", (3, 3)), r"a\.levels: found \[3, 3\]; give one or more, each once"),
        (lambda: require_levels("a", (3, 10), 10), r"a\.levels: found \[3, 10\]; name levels of 0 … 9"),
        (lambda: require_levels("a", (-1, 3), 10), r"a\.levels: found \[-1, 3\]; name levels of 0 … 9"),
    ],
)
def test_what_is_not_names_the_key_the_value_and_the_range(check, message):
    with pytest.raises(ConfigError, match=message):
        check()
