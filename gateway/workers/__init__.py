"""The engines of a model: which one takes a call, and what happens when one fails."""
