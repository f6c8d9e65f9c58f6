"""Where photos come from: one module per source, which ends with its `SOURCE`; `opening` has the table of them."""
