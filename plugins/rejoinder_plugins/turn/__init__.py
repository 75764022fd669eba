"""Turn detectors."""
