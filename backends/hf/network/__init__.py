"""The model as one torch module: transformer, pooling, the layers after it."""
