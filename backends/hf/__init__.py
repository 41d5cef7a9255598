"""Hugging Face model directories, computed by OpenVINO on a processor and by torch on a GPU."""
