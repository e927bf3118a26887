"""Measuring: the loop, statistics, accuracy, telemetry and reports."""
