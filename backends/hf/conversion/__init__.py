"""Converts a network for OpenVINO once, in a process of its own, checks the conversion and caches it."""
