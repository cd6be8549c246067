"""Results for people to read: statistics over seeds, tables, figures and one self-contained page."""

from bdjax.report.export import export
from bdjax.report.figures import ratio_figure
from bdjax.report.page import write
from bdjax.report.statistics import crossed
from bdjax.report.tables import paired, table
from bdjax.report.text import differences, summary, text_table

__all__ = ["crossed", "differences", "export", "paired", "ratio_figure", "summary", "table", "text_table", "write"]
