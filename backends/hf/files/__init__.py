"""What a model directory holds and says of itself: found, fetched, verified, read. No model library."""
