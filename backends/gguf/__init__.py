"""A GGUF file, run by llama.cpp through the low-level functions of llama-cpp-python."""
