"""Tests of the machinery: what happens between a request's bytes and a backend, without any model."""
