"""Where photos come from: one module per source, each with a function that lists candidates."""
