"""Published tables as data: what others measured, on what and how, to hold measurements against."""
