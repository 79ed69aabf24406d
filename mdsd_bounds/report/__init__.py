"""One page about one dump, one HTML file that needs nothing else: the answer, figures, tables, positions."""

from mdsd_bounds.report.answer import Answer, answer
from mdsd_bounds.report.page import html_report, run_of
from mdsd_bounds.report.positions import Explored, explore, read_tokenizer

__all__ = ["Answer", "Explored", "answer", "explore", "html_report", "read_tokenizer", "run_of"]
