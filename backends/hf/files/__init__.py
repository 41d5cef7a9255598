"""Finds or downloads a model directory, verifies its files and reads its settings. No model library."""
