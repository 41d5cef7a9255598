"""A network converted for OpenVINO: once, in a process of its own, checked, and kept."""
