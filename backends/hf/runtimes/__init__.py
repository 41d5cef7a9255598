"""The engines that compute a network: torch and OpenVINO."""
