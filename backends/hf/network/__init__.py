"""The model as one torch module: transformer, pooling, and the layers after it."""
