"""Engines that turn token ids into vectors, and the worker process that one of them lives in."""
