"""Settings of the whole suite: eight virtual CPU devices, so that tests can build meshes of 1, 2, 4 and 8."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
