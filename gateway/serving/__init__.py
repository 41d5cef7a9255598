"""Served models: calls are prepared, computed by a model, and assembled into results."""
