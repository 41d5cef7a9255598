"""Served models: what is asked of one, made ready for it, computed, and answered."""
