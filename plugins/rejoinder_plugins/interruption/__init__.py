"""Judges of interruptions."""
