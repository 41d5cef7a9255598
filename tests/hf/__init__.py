"""Tests of the Hugging Face backend."""
