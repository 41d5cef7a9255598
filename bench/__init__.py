"""Measures the gateway beside its peers and beside what the machine can do; run as ``python -m bench``."""
