"""Measurements of a running server, side by side with a baseline."""

import os

# Programs are started here while gRPC's threads are at work; its own handling of a fork may end the new process at
# once. gRPC reads this when it is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
