"""An OpenAI-compatible embeddings gateway: HTTP in, micro-batches out to worker processes, vectors back."""
