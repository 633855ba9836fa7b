"""One lifecycle for everything a Python service does in the background."""

__version__ = "0.1.0"
