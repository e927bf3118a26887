"""Scripts that hold our numbers side by side with those of other tools."""
