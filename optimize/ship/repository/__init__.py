"""Where a model repository of Triton lies: in a folder, on an SSH host, or in a bucket."""
