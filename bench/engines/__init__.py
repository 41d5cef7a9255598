"""Engines without HTTP, each in a process of its own."""
