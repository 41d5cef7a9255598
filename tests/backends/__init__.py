"""Tests of what all backends share: the contract, the messages, the worker process, the self-test."""
