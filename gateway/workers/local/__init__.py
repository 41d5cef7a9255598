"""Engines in worker processes on this machine: started, called, watched, restarted."""
