# The bindings stand here on a board.
