"""What an analysis is asked to do, held to its range where it enters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from iredinterp.errors import ConfigError


def require_least(section: str, least: Mapping[str, float], found: Mapping[str, float]) -> None:
    """Hold settings to the least that each may be.

    Args:
        section: of the configuration, as an error names it.
        least: by setting.
        found: their values, maybe beside those of other settings.

    Raises:
        ConfigError: one is smaller.
    """
    for name, bound in least.items():
        if found[name] < bound:
            raise ConfigError(f"{section}.{name}: found {found[name]}, needs at least {bound}")


def require_positive(section: str, names: Collection[str], found: Mapping[str, float]) -> None:
    """Hold settings above 0.

    Args:
        section: of the configuration, as an error names it.
        names: of the settings.
        found: their values, maybe beside those of other settings.

    Raises:
        ConfigError: one is 0, negative or not a number.
    """
    for name in names:
        if not found[name] > 0:
            raise ConfigError(f"{section}.{name}: found {found[name]}; give a number above 0")


def require_levels(section: str, levels: Sequence[int], count: int | None = None) -> None:
    """Hold the levels looked at to those there are.

    Args:
        section: of the configuration, as an error names it.
        levels: its key `levels`.
        count: K, or None where no schedule is known yet.

    Raises:
        ConfigError: none, one twice, or one outside 0 … K − 1.
    """
    if not levels or len(set(levels)) < len(levels):
        raise ConfigError(f"{section}.levels: found {list(levels)}; give one or more, each once")
    if count is not None and not 0 <= min(levels) <= max(levels) < count:
        raise ConfigError(f"{section}.levels: found {list(levels)}; name levels of 0 … {count - 1}")
