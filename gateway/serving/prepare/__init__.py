"""From what a client sent to token ids that the model takes."""
