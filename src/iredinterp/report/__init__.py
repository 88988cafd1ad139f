"""The report: one self-contained HTML file of verdicts, figures, numbers, models and their origins."""

from iredinterp.report.build import write_report
from iredinterp.report.pages import read_pages

__all__ = ["read_pages", "write_report"]
