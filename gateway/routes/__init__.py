"""The HTTP surface: handlers that read a request, call the model or the registry, and say what came back."""
