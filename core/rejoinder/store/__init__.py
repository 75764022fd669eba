"""Conversations and latency in SQL."""
