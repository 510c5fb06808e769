"""What a running server leaves on disk and on its metrics port, and the client that controls it."""
