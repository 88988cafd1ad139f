"""What the benchmarks share: clocks, ratios within a round, and the page of results."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")


def interleaved(methods: dict[str, Callable[[], object]], rounds: int, clock) -> dict[str, list[float]]:
    """Seconds of every method in every round, after one untimed round."""
    seconds = {name: [] for name in methods}
    for round_index in range(-1, rounds):
        order = list(methods)
        random.shuffle(order)
        for name in order:
            start = clock()
            methods[name]()
            if round_index >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> str:
    """Median of the ratios within rounds, and their range."""
    ratios = sorted(a / b for a, b in zip(seconds, base, strict=True))
    return f"{statistics.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g})"


def synchronised_clock() -> float:
    """Wall seconds once the GPU has finished."""
    torch.cuda.synchronize()
    return time.perf_counter()


def device_name(device: str, threads: str = "one thread") -> str:
    """What the figures were measured on."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {threads} of {models[0] if models else platform.processor()}"


def write_results(title: str, device: str, sections: Sequence[str]) -> None:
    """Replace this device's section of the results page, or add it."""
    heading = f"## {title}, {device}\n\n"
    text = RESULTS.read_text() if RESULTS.exists() else "# Measured\n\n"
    before, found, rest = text.partition(heading)
    after = rest[rest.index("\n## ") + 1 :] if found and "\n## " in rest else ""
    section = heading + "\n\n".join(sections) + "\n"
    RESULTS.write_text(before.rstrip() + "\n\n" + section + ("\n" + after if after else ""))
