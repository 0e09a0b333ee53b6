"""Pure array functions: they know shapes and dtypes, but neither nets nor data sets."""
