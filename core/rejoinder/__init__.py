"""Rejoinder: a platform for real-time agents; speech or text in, speech and text out."""

from rejoinder.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
