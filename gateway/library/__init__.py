"""The gateway without HTTP: the same models, batcher and promises, called from Python."""
