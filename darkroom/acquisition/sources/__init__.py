"""Sources of photos: a module per source, which ends with its `SOURCE`. `opening` has the table of sources."""
