"""Sockets: HTTP/1.1 with limits and deadlines. It knows no model and no resource."""
