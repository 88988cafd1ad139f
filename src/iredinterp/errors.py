"""The errors this package raises at its edges: where a file, a key or a number from outside is wrong."""


class IredInterpError(Exception):
    """Base of every error this package raises on purpose; its message says what to do."""


class CheckpointError(IredInterpError):
    """A checkpoint file cannot be used: names the file, the key, what was expected and what was found."""


class TaskError(IredInterpError):
    """A matrix task or one of its parameters is not defined."""


class TableError(IredInterpError):
    """A Parquet artifact is not one of ours, is damaged, or has an incompatible schema."""


class ConfigError(IredInterpError):
    """A configuration value is missing, unknown or inconsistent with another."""


class EngineError(IredInterpError):
    """A spectral engine cannot answer for this energy, dimension or request."""


class TrainingError(IredInterpError):
    """Training diverged, or a saved training state belongs to another recipe."""


class ClusterError(IredInterpError):
    """A cluster cannot be reached or used: names the host, or the scheduler's command, and what it said."""
