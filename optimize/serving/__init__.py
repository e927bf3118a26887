"""Engines on a node without Triton: KServe v2 over HTTP and gRPC, by MLServer with a runtime of this project."""

HOST, HTTP_PORT, GRPC_PORT = "127.0.0.1", 8000, 8001
"""Where it listens unless told otherwise; the ports are Triton's."""

NEWEST_PYTHON = (3, 12)
"""That MLServer has a version for."""
