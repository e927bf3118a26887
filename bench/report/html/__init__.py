"""A run as one HTML page that works offline: summary, tables, charts, machine and method."""

from bench.report.html.page import text

__all__ = ["text"]
