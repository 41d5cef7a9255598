"""HTTP: handlers, and the shapes and bytes that they read and write."""
