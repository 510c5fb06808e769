"""What runs on the serving machine: stages, engines, launcher."""
