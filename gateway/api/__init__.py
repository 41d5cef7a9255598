"""The API: middleware, errors, schemas, and one file for each resource."""
