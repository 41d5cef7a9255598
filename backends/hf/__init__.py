"""Hugging Face model directories, run by transformers and torch."""
