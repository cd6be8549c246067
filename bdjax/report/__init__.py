"""Results for people to read: statistics over seeds, tables, figures and one self-contained page."""

from bdjax.report.export import export
from bdjax.report.figures import ratio_figure
from bdjax.report.markup import write_tables
from bdjax.report.page import write, write_several
from bdjax.report.statistics import crossed
from bdjax.report.studies import Shown, labels
from bdjax.report.tables import paired, table
from bdjax.report.text import detections, differences, summary, text_table
from bdjax.report.verdicts import BOUND

__all__ = [
    "BOUND",
    "Shown",
    "crossed",
    "detections",
    "differences",
    "export",
    "labels",
    "paired",
    "ratio_figure",
    "summary",
    "table",
    "text_table",
    "write",
    "write_several",
    "write_tables",
]
