"""Checks of the configuration that a JSON schema cannot express: names that must be defined elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from iredinterp.errors import ConfigError


def check_config(config: Mapping) -> None:
    """Refuse a configuration whose parts do not fit together.

    Args:
        config: valid by the schema, defaults filled in.

    Raises:
        ConfigError: names the key, what was found and what is defined.
    """
    for section in ("models", "training"):
        for name, entry in config[section].items():
            _require(entry["problems"], config["problems"], f"{section}.{name}.problems", "problems")
    for name in config["select"]:
        _require(name, config["models"], "select", "models")
    for name in config["select"] or config["models"]:
        checkpoint = config["models"][name]["checkpoint"]
        if not Path(checkpoint).is_file():
            raise ConfigError(
                f"models.{name}.checkpoint: no file {checkpoint!r}; give the path of a checkpoint, "
                f"absolute or relative to the folder snakemake runs in"
            )


def _require(name: str, defined: Mapping, key: str, section: str) -> None:
    if name not in defined:
        raise ConfigError(
            f"{key}: {name!r} is not defined under {section}; defined are {', '.join(sorted(defined))}"
        )
