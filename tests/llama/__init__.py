"""Tests of the GGUF backend. The folder is not called gguf, the name of a library that it uses."""
