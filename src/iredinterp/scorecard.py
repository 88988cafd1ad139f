"""How far the methods can be trusted: recovery of planted truth, false positives, power and cost.

Everything is measured anew with fresh seeds, and nothing here comes from `iredinterp.analyses`: the numbers
an analysis reports are found again from the eigenvalues alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.energy import Energy, MLPEnergy, map_chunks
from iredinterp.evidence.hypotheses import Hypothesis, Registration
from iredinterp.evidence.statistics import binomial_bound, level_statistic
from iredinterp.evidence.verdicts import SAMPLE_KEYS, UNIT, judge
from iredinterp.expected import OF_SPECTRA
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import Problems, ProblemSpec, draw_problems
from iredinterp.pages import render_page
from iredinterp.points import q_sample
from iredinterp.spectrum import spectra
from iredinterp.truth.planted import EVERY_DECOY, planted

SCHEMA = pa.schema(
    dict.fromkeys(("method", "family", "measure"), pa.string())
    | dict.fromkeys(("value", "low", "high", "nominal"), pa.float64())
    | {"replicates": pa.int32(), "unit": pa.string()}
)
# What exact arithmetic in float64 has to reach.
SPECTRUM_TOLERANCE = 1e-10
PROBLEMS = 16
SEEDS = 8
EFFECTS = (1, 2, 3)
CHUNK = 64


def scorecard(
    registration: Registration,
    samples: pd.DataFrame,
    specs: Mapping[str, ProblemSpec],
    hidden: Mapping[str, int],
    engine: str,
    replicates: int,
    seed: int,
) -> pa.Table:
    """One row per method, family and measure.

    Args:
        registration: the hypotheses and their rule.
        samples: what was measured, as `judge` takes it; power is that at its spread over seeds and problems.
        specs: by family, its distribution.
        hidden: by family, the width of its networks.
        engine: of the spectra, as the analysis is configured.
        replicates: null replicates, and replicates per effect.
        seed: of everything drawn.

    Returns:
        Rows of method, family, measure, value, low and high (95 % Clopper–Pearson interval of a rate),
        nominal (the largest rate or error allowed), replicates and unit:

        * of the engine, spectrum_error: largest |λ̂ − λ|/|λ|max on a newly planted network, over all levels
          and points; time: milliseconds per point.
        * of each hypothesis about the spectrum, statistic_error: of its statistic there; false_positives:
          SUPPORTED or REVERSED where trained model and nulls are all untrained networks, dealt out at random;
          false_positives_at_s: SUPPORTED where the effect is s against one null and far above the others;
          power_at_ks: SUPPORTED at k·s against every null, the oracle far away; detected_at_1s: at s, the
          test on seeds rejects; time: seconds per judgement.
    """
    hypotheses = [entry for entry in registration.hypotheses if entry.metric in OF_SPECTRA]
    words = np.random.SeedSequence(seed).spawn(len(specs))
    rows = []
    for (family, spec), own in zip(specs.items(), words, strict=True):
        generator = torch.Generator().manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))
        rng = np.random.default_rng(own)
        found = list(recovery(hypotheses, spec, engine, generator))
        for hypothesis in (entry for entry in hypotheses if spec.task in entry.tasks):
            pool = untrained_values(hypothesis, spec, hidden[family], engine, generator)
            found += Trials(registration, hypothesis, spec.task, rng).rates(pool, samples, family, replicates)
        rows += [{"family": family, **row} for row in found]
    return pa.Table.from_pylist(rows, SCHEMA)


def recovery(
    hypotheses: Sequence[Hypothesis], spec: ProblemSpec, engine: str, generator: torch.Generator
) -> Iterator[dict]:
    """Errors on a network planted for the occasion, and the time that its spectra take."""
    seed = int(torch.randint(2**31, (), generator=generator))
    network = planted(spec.dim_x, spec.dim_y, seed, decoys=EVERY_DECOY)
    energy = MLPEnergy(network.model)
    x, y, t = all_levels(energy, draw_problems(spec, PROBLEMS, generator), generator)
    start = time.perf_counter()
    found = eigenvalues(energy, x, y, t, engine)
    elapsed = time.perf_counter() - start
    truth = network.truth.spectrum.sort(dim=1).values[t]
    error = ((found - truth).abs().amax(1) / truth.abs().amax(1)).max()
    yield {
        "method": f"spectra:{engine}",
        "measure": "spectrum_error",
        "value": float(error),
        "nominal": SPECTRUM_TOLERANCE,
    }
    yield {
        "method": f"spectra:{engine}",
        "measure": "time",
        "value": 1e3 * elapsed / len(t),
        "unit": "ms per point",
    }
    for hypothesis in hypotheses:
        expected, got = (statistic(hypothesis, values, t, energy) for values in (truth, found))
        yield {
            "method": hypothesis.id,
            "measure": "statistic_error",
            "value": float(abs(got - expected).max()),
            "nominal": hypothesis.gate.tolerance,
            "unit": hypothesis.unit,
        }


def untrained_values(
    hypothesis: Hypothesis, spec: ProblemSpec, hidden: int, engine: str, generator: torch.Generator
) -> np.ndarray:
    """The statistic of untrained networks, (networks, problems): eight for every condition."""
    problems = draw_problems(spec, PROBLEMS, generator)
    values = []
    for _ in range(SEEDS * len(hypothesis.conditions)):
        model = EnergyMLP.random(spec.dim_x, spec.dim_y, hidden, generator).to(torch.float64)
        energy = MLPEnergy(model)
        x, y, t = all_levels(energy, problems, generator)
        values.append(statistic(hypothesis, eigenvalues(energy, x, y, t, engine), t, energy))
    return np.stack(values)


def all_levels(
    energy: Energy, problems: Problems, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One q_sample of every problem at every level: x (B, d_x), y (B, d) and t (B,), levels outermost."""
    levels = range(energy.schedule.levels)
    noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
    y = torch.cat([q_sample(problems.y_star, t, noise, energy.schedule) for t in levels])
    t = torch.arange(len(levels)).repeat_interleave(len(problems))
    return problems.x.repeat(len(levels), 1), y, t


def eigenvalues(energy: Energy, x: Tensor, y: Tensor, t: Tensor, engine: str) -> Tensor:
    """All eigenvalues of ∇²_yE, (B, d), ascending."""
    parts = map_chunks(lambda *part: spectra(energy, *part, engine=engine).eigenvalues, (x, y, t), CHUNK)
    return torch.cat(list(parts))


def statistic(hypothesis: Hypothesis, values: Tensor, t: Tensor, energy: Energy) -> np.ndarray:
    """The hypothesis' statistic of the metric that these eigenvalues, (B, d), have; one per problem."""
    problems = len(t) // energy.schedule.levels
    frame = pd.DataFrame(
        {
            "problem": np.tile(np.arange(problems), energy.schedule.levels),
            "t": t.numpy(),
            "sigma": energy.schedule.sigma[t].numpy(),
            "value": OF_SPECTRA[hypothesis.metric](values.numpy()),
        }
    )
    return level_statistic(frame, hypothesis.statistic, ["problem"])["value"].to_numpy()


class Trials:
    """Judgements of made-up evidence.

    Args:
        registration: the rule.
        hypothesis: what is judged.
        task: of the family.
        rng: of everything drawn.
    """

    def __init__(
        self, registration: Registration, hypothesis: Hypothesis, task: str, rng: np.random.Generator
    ):
        self.registration, self.hypothesis, self.task, self.rng = registration, hypothesis, task, rng

    def rates(self, pool: np.ndarray, samples: pd.DataFrame, family: str, replicates: int) -> Iterator[dict]:
        """Error rates and power, see `scorecard`."""
        s, alpha = self.hypothesis.sesoi, self.registration.alpha
        start = time.perf_counter()
        dealt = [self.verdict(self.deal(pool)) for _ in range(replicates)]
        elapsed = (time.perf_counter() - start) / replicates
        claims = sum(found.verdict in ("SUPPORTED", "REVERSED") for found in dealt)
        yield self.rate("false_positives", claims, replicates, alpha)
        yield {
            "method": self.hypothesis.id,
            "measure": "time",
            "value": elapsed,
            "unit": "s per judgement",
        }
        spread = self.spread(samples, family)
        if spread is None:
            return
        far = dict.fromkeys(self.hypothesis.conditions[1:], 20 * s)
        worst = [self.verdict(self.shifted(spread, far | {self.nth(i): s})) for i in range(replicates)]
        supported = sum(found.verdict == "SUPPORTED" for found in worst)
        yield self.rate("false_positives_at_s", supported, replicates, alpha)
        for size in EFFECTS:
            effects = dict.fromkeys(self.hypothesis.nulls, size * s) | {"oracle": 20 * s}
            found = [self.verdict(self.shifted(spread, effects)) for _ in range(replicates)]
            if size == 1:
                detected = sum(v.p_holm <= alpha and v.hardest.effect > 0 for v in found)
                yield self.rate("detected_at_1s", detected, replicates)
            yield self.rate(f"power_at_{size}s", sum(v.verdict == "SUPPORTED" for v in found), replicates)

    def nth(self, index: int) -> str:
        """The null that the effect is smallest against, each in turn."""
        return self.hypothesis.nulls[index % len(self.hypothesis.nulls)]

    def deal(self, pool: np.ndarray) -> dict[str, np.ndarray]:
        """Networks dealt out to the conditions."""
        order = self.rng.permutation(len(pool)).reshape(-1, SEEDS)
        return {name: pool[rows] for name, rows in zip(self.hypothesis.conditions, order, strict=True)}

    def spread(self, samples: pd.DataFrame, family: str) -> dict[str, np.ndarray] | None:
        """By condition, trained less it as measured, (seeds, problems), about its mean; None if missing."""
        mine = samples[(samples["family"] == family) & (samples["hypothesis"] == self.hypothesis.id)]
        values = mine.pivot(index=UNIT, columns="condition", values="value").astype(float)
        if not {*self.hypothesis.conditions} <= {*values.columns}:
            return None
        apart = {
            name: (values["trained"] - values[name]).unstack() for name in self.hypothesis.conditions[1:]
        }
        return {name: (delta - delta.mean().mean()).to_numpy() for name, delta in apart.items()}

    def shifted(
        self, spread: Mapping[str, np.ndarray], effects: Mapping[str, float]
    ) -> dict[str, np.ndarray]:
        """Measured deviations about given effects, of seeds and problems drawn anew with replacement.

        Problems are drawn for all seeds at once: what they have in common stays in common.
        """
        shape = next(iter(spread.values())).shape
        drawn = np.ix_(*(self.rng.integers(size, size=size) for size in shape))
        values = {name: -(effects[name] + delta[drawn]) for name, delta in spread.items()}
        return {"trained": np.zeros(shape), **values}

    def verdict(self, values: Mapping[str, np.ndarray]):
        """The verdict on values by condition, (seeds, problems) each."""
        frames = []
        for condition, table in values.items():
            seed, problem = np.indices(table.shape).reshape(2, -1)
            keys = (self.hypothesis.id, self.task, "trial", condition)
            frame = pd.DataFrame({"seed": seed, "problem_id": problem, "value": table.ravel()})
            frames.append(frame.assign(**dict(zip(SAMPLE_KEYS, keys, strict=False))))
        gate = {(self.hypothesis.gate.method, "trial"): 0.0}
        (found,) = (v for v in judge(self.registration, pd.concat(frames), gate) if v.family)
        return found

    def rate(self, measure: str, hits: int, replicates: int, nominal: float | None = None) -> dict:
        """A row of a rate with its binomial bound."""
        low, high = binomial_bound(hits, replicates)
        row = {"method": self.hypothesis.id, "measure": measure, "value": hits / replicates}
        return row | {"low": low, "high": high, "nominal": nominal, "replicates": replicates}


def render_scorecard(table: pa.Table, seed: int, path: str | Path) -> None:
    """Write the scorecard as a self-contained HTML page, atomically.

    Args:
        table: from `scorecard`.
        seed: it was made with.
        path: file to write.
    """
    render_page("scorecard.html", path, rows=table.to_pylist(), seed=seed)
